    /// The embedding of token ids, special tokens included and without padding.
    public func embed(tokens: [Int32]) throws -> [Float] {
        guard !tokens.isEmpty, let length = Self.lengths.first(where: { $0 >= tokens.count }) else {
            throw @TYPE@Error.wrongInput("\(tokens.count) tokens; 1 to \(Self.lengths.last ?? 0) fit")
        }
        var arrays: [String: MLMultiArray] = [:]
        for input in Self.inputs {
            arrays[input] = try MLMultiArray(shape: [1, NSNumber(value: length)], dataType: .int32)
        }
        for position in 0..<length {
            let isToken = position < tokens.count
            arrays["input_ids"]?[position] = NSNumber(value: isToken ? tokens[position] : Self.padding)
@MASK@        }
        return try run(arrays.mapValues { MLFeatureValue(multiArray: $0) })
    }
