package import Wire

extension Scheduler {
    /// Takes what a step gave. A result of another epoch, or of a step that is not under way, is dropped.
    /// - Parameter vocabulary: tokens at or above it are the worker's fault and fail their sequence.
    package mutating func receive(_ result: ProtoStepResult, epoch: UInt64, vocabulary: Int) -> [Output] {
        guard let (lane, step) = takeStep(result.stepID, lane: result.lane, epoch: epoch) else { return [] }
        lanes[lane].gaps = 0
        var tokens: [UInt64: Int32] = [:]
        for sampled in result.tokens { tokens[sampled.sequence] = sampled.token }
        var scores: [UInt64: ProtoScoredRows] = [:]
        for scored in result.scores { scores[scored.sequence] = scored }
        var failures: [UInt64: ProtoFailure] = [:]
        for failed in result.failures { failures[failed.sequence] = failed.failure }

        var outputs: [Output] = []
        for id in step.sequences {
            guard let rows = sequences[id]?.inFlight, let sequence = sequences[id] else { continue }
            sequences[id]?.inFlight = nil
            if sequence.ending {
                release(id, from: lane)
                sequences[id] = nil
                continue
            }
            if let failure = failures[id] {
                outputs.append(fail(id, in: lane, code: failure.code, message: failure.message))
                continue
            }
            let complete = sequence.remaining == rows
            sequences[id]?.computed += rows
            if sequence.scoreTop != nil {
                guard let scored = scores[id], scored.position == UInt32(clamping: sequence.computed),
                    scored.top.count == rows
                else {
                    outputs.append(failProtocol(id, in: lane, "the result has no scores for it"))
                    continue
                }
                outputs.append(.scored(id: id, rows: scored))
            } else if complete {
                guard let token = tokens[id], token >= 0, token < vocabulary else {
                    outputs.append(failProtocol(id, in: lane, "the result has no valid token for it"))
                    continue
                }
                sequences[id]?.tokens.append(token)
                outputs.append(.token(id: id, token: token))
            }
        }
        return outputs
    }

    /// A home could not finish a step. Tables that it missed are sent anew; anything else ends the step's sequences.
    package mutating func stepFailed(_ failed: ProtoStepFailed, epoch: UInt64) -> [Output] {
        guard let (lane, step) = takeStep(failed.stepID, lane: failed.lane, epoch: epoch) else { return [] }
        let gap = failed.failure.code == "page_table_gap"
        if gap {
            lanes[lane].gaps += 1
            lanes[lane].resynchronise = true
        }
        // A home that reports gap after gap, even after whole tables, is broken.
        let retry = gap && lanes[lane].gaps <= Self.gapLimit
        var outputs: [Output] = []
        for id in step.sequences {
            guard let sequence = sequences[id] else { continue }
            sequences[id]?.inFlight = nil
            if sequence.ending {
                release(id, from: lane)
                sequences[id] = nil
            } else if !retry {
                outputs.append(fail(id, in: lane, code: Self.code(of: failed.failure), message: failed.failure.message))
            }
        }
        return outputs
    }

    /// A home may notice that another worker is gone before the coordinator does; to a client it is the same.
    private static func code(of failure: ProtoFailure) -> String {
        switch failure.code {
        case "peer_lost", "expert_unreachable": "worker_lost"
        case "": "step_failed"
        default: failure.code
        }
    }

    /// As many steps as a lane can have in flight when one gap fails them all, and again.
    private static let gapLimit = 64

    private mutating func takeStep(
        _ stepID: UInt64, lane: UInt32, epoch: UInt64
    ) -> (lane: Int, step: FlyingStep)? {
        guard epoch == self.epoch, let index = Int(exactly: lane), lanes.indices.contains(index),
            let step = lanes[index].inFlight.removeValue(forKey: stepID)
        else { return nil }
        return (index, step)
    }

    private mutating func fail(_ id: UInt64, in lane: Int, code: String, message: String) -> Output {
        release(id, from: lane)
        sequences[id] = nil
        return .failed(id: id, code: code, message: message)
    }

    private mutating func failProtocol(_ id: UInt64, in lane: Int, _ message: String) -> Output {
        fail(id, in: lane, code: "worker_protocol", message: "lane \(lane): \(message)")
    }
}
