
/// BERT's tokenizer: the token ids that Hugging Face's tokenizers gives for the bundle's tokenizer.json.
///
/// Text becomes Unicode scalars and pieces become bytes, because Swift compares strings by canonical equivalence,
/// which would take pieces of the vocabulary for one another.
@available(@AVAILABLE@)
public struct @TYPE@Tokenizer: Sendable {
    public static let file = @TOKENIZER@
    private static let sha256 = "@TOKENIZER_DIGEST@"
    /// Special tokens are found in the text as it is, the longest first.
    private static let special: [(token: [UInt8], id: Int32)] = [
@SPECIAL@
    ]
    private static let before: [Int32] = [@BEFORE@]
    private static let after: [Int32] = [@AFTER@]
    private static let unknown: Int32 = @UNKNOWN@
    private static let continuation = Array(@CONTINUATION@.utf8)
    private static let mostTokens = @MOST_TOKENS@
    private static let longestWord = @LONGEST_WORD@

    private let pieces: [[UInt8]: Int32]

    /// Reads the vocabulary of the bundle's tokenizer.json.
    public init(contentsOf url: URL) throws {
        let data = try Data(contentsOf: url)
        try @TYPE@Error.check(data, Self.sha256, Self.file)
        // Not as [String: Int]: two pieces that are canonically equivalent would be one key.
        let root = try JSONSerialization.jsonObject(with: data) as? NSDictionary
        guard let vocabulary = (root?["model"] as? NSDictionary)?["vocab"] as? NSDictionary else {
            throw @TYPE@Error.changedFile(Self.file)
        }
        var pieces: [[UInt8]: Int32] = [:]
        pieces.reserveCapacity(vocabulary.count)
        for (key, value) in vocabulary {
            guard let piece = key as? String, let id = value as? NSNumber else {
                throw @TYPE@Error.changedFile(Self.file)
            }
            pieces[Array(piece.utf8)] = id.int32Value
        }
        self.pieces = pieces
    }

    /// The token ids of a text, special tokens included, cut at the most tokens that the model takes; without padding.
    public func encode(_ text: String) -> [Int32] {
        var ids: [Int32] = []
        var plain: [UInt8] = []
        let bytes = Array(text.utf8)
        var index = 0
        while index < bytes.count {
            if let found = Self.special.first(where: { bytes[index...].starts(with: $0.token) }) {
                ids += words(of: plain)
                plain = []
                ids.append(found.id)
                index += found.token.count
            } else {
                plain.append(bytes[index])
                index += 1
            }
        }
        ids += words(of: plain)
        let room = Self.mostTokens - Self.before.count - Self.after.count
        return Self.before + ids.prefix(room) + Self.after
    }

    private func words(of plain: [UInt8]) -> [Int32] {
        var ids: [Int32] = []
        var word: [Unicode.Scalar] = []
        for scalar in Self.normalized(String(decoding: plain, as: UTF8.self)) {
            if scalar.properties.isWhitespace {
                ids += tokens(of: word)
                word = []
            } else if Self.isPunctuation(scalar) {
                ids += tokens(of: word) + tokens(of: [scalar])
                word = []
            } else {
                word.append(scalar)
            }
        }
        return ids + tokens(of: word)
    }

    /// The longest pieces from the left; a word that they do not make up is unknown as a whole.
    private func tokens(of word: [Unicode.Scalar]) -> [Int32] {
        if word.isEmpty { return [] }
        if word.count > Self.longestWord { return [Self.unknown] }
        var ids: [Int32] = []
        var start = 0
        while start < word.count {
            var end = word.count
            var id: Int32?
            while end > start {
                let bytes = Array(Self.string(word[start..<end]).utf8)
                id = pieces[start > 0 ? Self.continuation + bytes : bytes]
                if id != nil { break }
                end -= 1
            }
            guard let id else { return [Self.unknown] }
            ids.append(id)
            start = end
        }
        return ids
    }

    private static func normalized(_ text: String) -> [Unicode.Scalar] {
        var scalars: [Unicode.Scalar] = []
        for original in text.unicodeScalars {
@CLEAN@@CHINESE@            scalars.append(scalar)
        }
@ACCENTS@@LOWERCASE@        return scalars
    }

    private static func string(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }

    /// Categories Cc, Cf and Co, but for tab and the ends of lines.
    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        if scalar == "\t" || scalar == "\n" || scalar == "\r" { return false }
        switch scalar.properties.generalCategory {
        case .control, .format, .privateUse: return true
        default: return false
        }
    }

    /// All ASCII that is neither letter, digit, space nor control, and the categories P.
    private static func isPunctuation(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 33...47, 58...64, 91...96, 123...126: return true
        default: break
        }
        switch scalar.properties.generalCategory {
        case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
            .finalPunctuation, .otherPunctuation:
            return true
        default: return false
        }
    }

    /// CJK ideographs, each of which is a word.
    private static func isIdeograph(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F,
            0x2B920...0x2CEAF, 0xF900...0xFAFF, 0x2F800...0x2FA1F:
            return true
        default: return false
        }
    }
}
