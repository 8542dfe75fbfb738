/// What steps or requests that are over leave, for the next ones: as many as a few waves need, and none larger than a decode
/// step's.
struct Spares<Element> {
    /// Of a decode step. What had more rows gives its memory back to the system.
    private static var mostRows: Int { 128 }
    private static var most: Int { 8 }

    private var elements: [Element] = []

    mutating func take() -> Element? { elements.popLast() }

    /// - Parameter rows: how many the element had room for.
    mutating func keep(_ element: Element, rows: Int) {
        if rows <= Self.mostRows, elements.count < Self.most { elements.append(element) }
    }
}
