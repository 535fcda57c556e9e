    /// The embedding of an image: `dimension` numbers@NORMALIZED@.
    ///
    /// `rgb` has `side` x `side` pixels of 8 bits a channel, row by row without gaps. Make it as the reference does: the shortest
    /// side to `side` by @INTERPOLATION@ interpolation with antialiasing (Pillow's), then the middle cut out. Core Graphics'
    /// interpolation gives other pixels; measure on images of your own what that costs.
    public func embed(rgb: [UInt8]) throws -> [Float] {
        guard rgb.count == 3 * Self.side * Self.side else {
            throw @TYPE@Error.wrongInput("\(rgb.count) bytes; \(3 * Self.side * Self.side) are wanted")
        }
        let side = NSNumber(value: Self.side)
        let pixels = try MLMultiArray(shape: [1, 3, side, side], dataType: Self.inputs[0].type)
        let plane = Self.side * Self.side
        for channel in 0..<3 {
            for pixel in 0..<plane {
                let value = (Float(rgb[3 * pixel + channel]) / 255 - Self.mean[channel]) / Self.std[channel]
                pixels[channel * plane + pixel] = NSNumber(value: value)
            }
        }
        return try run([Self.inputs[0].name: pixels])
    }
