import CKernels
package import ModelStore

extension Engine {
    /// Bytes that a KV page takes in a layer.
    static func layerPageBytes(of shape: ModelShape) -> Int {
        tk_kv_page_bytes(shape.keyValueHeads, shape.headDimension)
    }

    /// KV pages that memory has room for in a worker of so many layers, and what one page takes there.
    package static func pages(
        within bytes: UInt64, layers: Int, shape: ModelShape
    ) -> (pages: UInt64, pageBytes: UInt64) {
        let (product, overflow) = UInt64(clamping: layerPageBytes(of: shape)).multipliedReportingOverflow(
            by: UInt64(clamping: layers))
        let pageBytes = overflow ? .max : max(product, 1)
        return (bytes / pageBytes, pageBytes)
    }
}

/// The KV cache: for every layer of the shard, pages of 32 tokens (`tk_kv_view` has a page's layout).
///
/// A page id means the same place in every layer, so one table serves them all.
final class KeyValuePages {
    let pages: Int
    /// Bytes of a page in one layer.
    let layerPageBytes: Int
    private let memory: MappedMemory
    private let keyValueHeads: Int
    private let headDimension: Int

    /// - Throws: `EngineError` `memory`.
    init(shape: ModelShape, layers: Int, pages: Int) throws {
        guard pages >= 0, pages <= Int(Int32.max) else {
            throw EngineError(code: "page_range", message: "\(pages) KV pages; 0 to \(Int32.max) are possible")
        }
        self.pages = pages
        layerPageBytes = Engine.layerPageBytes(of: shape)
        keyValueHeads = shape.keyValueHeads
        headDimension = shape.headDimension
        let (inLayer, overflow) = layerPageBytes.multipliedReportingOverflow(by: pages)
        let (bytes, overflowAgain) = inLayer.multipliedReportingOverflow(by: layers)
        guard !overflow, !overflowAgain else {
            throw EngineError(
                code: "memory", message: "\(pages) KV pages of \(layers) layers overflow the address space")
        }
        memory = try MappedMemory(bytes: bytes)
    }

    /// The view of one sequence in a layer, counted from the shard's first.
    func view(layer: Int, pages table: UnsafePointer<Int32>) -> tk_kv_view {
        tk_kv_view(
            base: memory.base + layer * pages * layerPageBytes, page_stride: layerPageBytes, pages: table,
            kv_heads: keyValueHeads, head_dim: headDimension)
    }
}
