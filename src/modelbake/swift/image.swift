    /// The embedding of an image: `dimension` numbers@NORMALIZED@.
    ///
    /// Core ML scales it so that the shortest side fits, and cuts out the middle. The reference scales by @INTERPOLATION@
    /// interpolation with antialiasing (Pillow's), which gives somewhat other pixels: measure on images of your own what that
    /// costs, or make the pixels yourself for `embed(rgb:)`.
    public func embed(_ image: CGImage) throws -> [Float] {
        let scaled = try MLFeatureValue(
            cgImage: image, pixelsWide: Self.side, pixelsHigh: Self.side, pixelFormatType: kCVPixelFormatType_32BGRA,
            options: [.cropAndScale: VNImageCropAndScaleOption.centerCrop.rawValue])
        return try run([Self.input: scaled])
    }

    /// The embedding of `side` x `side` pixels, red, green and blue of 8 bits each, row by row without gaps.
    public func embed(rgb: [UInt8]) throws -> [Float] {
        guard rgb.count == 3 * Self.side * Self.side else {
            throw @TYPE@Error.wrongInput("\(rgb.count) bytes; \(3 * Self.side * Self.side) are wanted")
        }
        var made: CVPixelBuffer?
        let options = [kCVPixelBufferIOSurfacePropertiesKey: [:] as CFDictionary] as CFDictionary
        CVPixelBufferCreate(nil, Self.side, Self.side, kCVPixelFormatType_32BGRA, options, &made)
        guard let buffer = made, CVPixelBufferLockBaseAddress(buffer, []) == kCVReturnSuccess else {
            throw @TYPE@Error.wrongInput("no memory for the pixels")
        }
        guard let base = CVPixelBufferGetBaseAddress(buffer) else {
            CVPixelBufferUnlockBaseAddress(buffer, [])
            throw @TYPE@Error.wrongInput("no memory for the pixels")
        }
        let bytesPerRow = CVPixelBufferGetBytesPerRow(buffer)
        for row in 0..<Self.side {
            let target = base.advanced(by: row * bytesPerRow).assumingMemoryBound(to: UInt8.self)
            for column in 0..<Self.side {
                let source = 3 * (row * Self.side + column)
                target[4 * column] = rgb[source + 2]
                target[4 * column + 1] = rgb[source + 1]
                target[4 * column + 2] = rgb[source]
                target[4 * column + 3] = 255
            }
        }
        CVPixelBufferUnlockBaseAddress(buffer, [])
        return try run([Self.input: MLFeatureValue(pixelBuffer: buffer)])
    }
