import Glibc
package import NIOCore

/// A connection's socket, without the channel around it: reading and writing take one system call each and allocate nothing.
///
/// For the channel's own thread. The channel reads and writes the same stream; it must be open, and have no bytes that wait
/// to be written when others are written here. The stream's end and its errors are left for the channel to find.
package struct StreamSocket {
    let descriptor: CInt

    init(descriptor: CInt) {
        self.descriptor = descriptor
    }

    /// A channel's socket; nil where it is none. Called on the channel's loop.
    package init?(of channel: any Channel) {
        guard
            let descriptor = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: CInt.self, { $0 })
        else { return nil }
        self.descriptor = descriptor
    }

    /// Reads what has arrived.
    ///
    /// - Returns: the number of bytes; 0 where there are none, the stream has ended or is broken.
    func receive(into space: UnsafeMutableRawBufferPointer) -> Int {
        max(restarting { recv(descriptor, space.baseAddress, space.count, CInt(MSG_DONTWAIT)) }, 0)
    }

    /// Writes as much of a buffer, and of the bytes behind it, as the socket takes now.
    ///
    /// - Returns: the number of bytes.
    func send(
        _ buffer: ByteBuffer, _ body: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) -> Int {
        buffer.withUnsafeReadableBytes { bytes in
            withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { pieces in
                // The system only reads through these pointers.
                pieces[0] = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
                pieces[1] = iovec(iov_base: UnsafeMutableRawPointer(mutating: body.baseAddress), iov_len: body.count)
                var message = msghdr()
                message.msg_iov = pieces.baseAddress
                message.msg_iovlen = pieces.count
                return max(restarting { sendmsg(descriptor, &message, CInt(MSG_DONTWAIT | MSG_NOSIGNAL)) }, 0)
            }
        }
    }

    /// Writes as many of the bytes as the socket takes now.
    ///
    /// - Returns: the number of bytes.
    package func send(_ bytes: UnsafeRawBufferPointer) -> Int {
        max(
            restarting { Glibc.send(descriptor, bytes.baseAddress, bytes.count, CInt(MSG_DONTWAIT | MSG_NOSIGNAL)) }, 0)
    }

    private func restarting(_ call: () -> Int) -> Int {
        while true {
            let result = call()
            guard result < 0, errno == EINTR else { return result }
        }
    }
}
