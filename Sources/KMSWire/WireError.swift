/// Why a message was refused: which one, which field, at which byte, and the rule it breaks.
///
/// Made of names and numbers only: nothing that the peer wrote, so it can go to logs and back to the peer.
public struct WireError: Error, Sendable, Equatable {
    /// The rule that was broken.
    public enum Reason: String, Sendable, CaseIterable {
        /// The message ends within a field's tag, length or value.
        case truncated
        /// A variable-length integer has more bytes than one may have.
        case varintTooLong
        /// Field number 0, or one above 2^29 - 1.
        case invalidFieldNumber
        /// A wire type that protobuf does not have.
        case invalidWireType
        /// A group that ends without beginning, ends as another one, or lies too deep.
        case malformedGroup
        /// A field of this message, written as another type.
        case wrongWireType
        /// A request with a field that this API version does not have.
        case unknownField
        /// A length that reaches beyond the end of the message.
        case lengthBeyondEnd
        /// Text that is not UTF-8.
        case invalidUTF8
        /// Text for logs with control, format or line-breaking characters.
        case notPrintable
        /// A field that must have at least one byte.
        case empty
        /// More bytes than the field may have.
        case tooLong
        /// `version` is neither empty nor `v1beta1`.
        case unsupportedVersion
        /// An annotation key that is not a fully qualified domain name.
        case invalidAnnotationKey
        /// The same annotation key twice, in a message to be written.
        case repeatedAnnotationKey
    }

    /// The message.
    public let message: WireMessage
    /// Number of the field; nil where the tag itself cannot be read.
    public let field: Int?
    /// The byte of the message at which the offending field begins; of a message to be written, 0.
    public let offset: Int
    /// The rule.
    public let reason: Reason
    /// The number that broke the rule: a length, a wire type; 0 where there is none.
    public let found: Int
    /// The bound, where the rule has one.
    public let limit: Int

    init(
        _ reason: Reason, _ message: WireMessage, field: Int?, at offset: Int, found: Int = 0, limit: Int = 0
    ) {
        self.message = message
        self.field = field
        self.offset = offset
        self.reason = reason
        self.found = found
        self.limit = limit
    }

    /// The field's name in the .proto file; nil for a field that the message does not have.
    public var fieldName: String? {
        guard let field, let known = message.field(field) else { return nil }
        return "\(known.name)"
    }
}

extension WireError: CustomStringConvertible {
    /// One line, for instance `v2.EncryptRequest.uid (field 2) at byte 36: 300 bytes, at most 256 are accepted`.
    public var description: String {
        let place =
            switch (fieldName, field) {
            case (let name?, let number?): "\(message.rawValue).\(name) (field \(number))"
            case (nil, let number?): "\(message.rawValue), field \(number)"
            case (_, nil): message.rawValue
            }
        return "\(place) at byte \(offset): \(rule)"
    }

    private var rule: String {
        switch reason {
        case .truncated: "the message ends within the field"
        case .varintTooLong: "a variable-length integer of more than \(limit) bytes"
        case .invalidFieldNumber: "field numbers go from 1 to 536870911"
        case .invalidWireType: "there is no wire type \(found)"
        case .malformedGroup: "a group that does not begin and end as it should, or more than \(limit) deep"
        case .wrongWireType: "written as wire type \(found), but it is length-delimited (2)"
        case .unknownField: "this message has no such field; is the caller made for a newer API?"
        case .lengthBeyondEnd: "its length of \(found) bytes reaches beyond the \(limit) bytes that are left"
        case .invalidUTF8: "not UTF-8"
        case .notPrintable: "control, format or line-breaking characters, which logs could not show"
        case .empty: "must not be empty"
        case .tooLong: "\(found) bytes, at most \(limit) are accepted"
        case .unsupportedVersion: "neither empty nor v1beta1, the only version of this service"
        case .invalidAnnotationKey: "a key that is not a lower-case domain name of two labels or more"
        case .repeatedAnnotationKey: "the same key twice"
        }
    }
}
