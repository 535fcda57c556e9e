    /// The embedding of a text: `dimension` numbers@NORMALIZED@.
    ///
    /// What is longer than the greatest of `lengths` is cut.
    public func embed(_ text: String) throws -> [Float] {
        try embed(tokens: tokenizer.encode(text))
    }

