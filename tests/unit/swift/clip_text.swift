// Written by `modelbake coreml swift minilm-coreml --role text_encoder --precision fp16`
// from the manifest of minilm-coreml 1.0.0, SAMPLE WEIGHTS (random). Write it anew for another version instead of changing it.

import CoreML
import CryptoKit
import Foundation

/// MiniLM_L6_v2.mlpackage: text encoder, fp16, verified on Linux, on no Mac.
///
/// An actor, since a loaded model serves one prediction at a time.
@available(iOS 16.0, macOS 13.0, *)
public actor MiniLM_L6_v2Encoder {
    /// What the manifest says of the package; `packageDigest` changes with every byte of it.
    public static let bundle = "minilm-coreml"
    public static let version = "1.0.0"
    public static let packageDigest = "c376f85b6afd2ff973d8da7cfbecc0255285d3c4153d3aa991c639f7ad636fc3"
    public static let dimension = 384

    private static let packageFiles: [(path: String, sha256: String)] = [
        ("Data/com.apple.CoreML/model.mlmodel", "ada0b8cfde15d9543851eae0c28f24f84aac0cbd30eaaacaffcbf647fb2bb7a6"),
        ("Data/com.apple.CoreML/weights/weight.bin", "2d07f23b79b4655b5be60da661ab1fb508f69a5c7879e24febd75edef514201d"),
        ("Manifest.json", "8fb1731761c46ffaf47e1d18b3a80dcca80acb858ea02c397b0b1bb2ba70669f"),
    ]
    private static let inputs = ["input_ids"]
    private static let output = "embeddings"

    private let model: MLModel
    /// The lengths of texts that the package takes, in tokens; a text is padded to the next one.
    public static let lengths = [77]
    private static let padding: Int32 = 0

    /// Loads a compiled model (.mlmodelc): the one that Xcode puts into the app, or `compiled(package:)`'s.
    ///
    /// Where its operations run best, the `placement` of a Mac's host report says.
    public init(compiledModel: URL, computeUnits: MLComputeUnits = .all) async throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = computeUnits
        let model = try await MLModel.load(contentsOf: compiledModel, configuration: configuration)
        for input in Self.inputs {
            let found = model.modelDescription.inputDescriptionsByName[input]?.multiArrayConstraint
            guard found?.dataType == .int32 else { throw MiniLM_L6_v2EncoderError.anotherModel(input) }
        }
        guard model.modelDescription.outputDescriptionsByName[Self.output]?.multiArrayConstraint != nil else {
            throw MiniLM_L6_v2EncoderError.anotherModel(Self.output)
        }
        self.model = model
    }

    /// The compiled model of a package (.mlpackage) that came after the app was built, compiled once for all launches.
    ///
    /// It is kept in this app's Application Support under the package's content digest, so a new package never runs an
    /// old model; what older packages left is removed. Each file is checked before anything is compiled.
    public static func compiled(package: URL) async throws -> URL {
        let files = FileManager.default
        let support = try files.url(
            for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        // Without a sandbox all apps of a Mac have one Application Support.
        let app = Bundle.main.bundleIdentifier ?? ProcessInfo.processInfo.processName
        var folder = support.appendingPathComponent("\(app)/CompiledModels/MiniLM_L6_v2", isDirectory: true)
        let kept = folder.appendingPathComponent("\(packageDigest).mlmodelc", isDirectory: true)
        if files.fileExists(atPath: kept.path) { return kept }
        for file in packageFiles {
            let data = try Data(contentsOf: package.appendingPathComponent(file.path), options: .mappedIfSafe)
            try MiniLM_L6_v2EncoderError.check(data, file.sha256, file.path)
        }
        let made = try await MLModel.compileModel(at: package)
        try files.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try folder.setResourceValues(values)
        do {
            try files.moveItem(at: made, to: kept)
        } catch {
            guard files.fileExists(atPath: kept.path) else { throw error }
            // Another task of this app was first.
            try? files.removeItem(at: made)
        }
        for old in try files.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        where old.lastPathComponent != kept.lastPathComponent {
            try? files.removeItem(at: old)
        }
        return kept
    }

    /// The embedding of token ids, special tokens included and without padding.
    public func embed(tokens: [Int32]) throws -> [Float] {
        guard !tokens.isEmpty, let length = Self.lengths.first(where: { $0 >= tokens.count }) else {
            throw MiniLM_L6_v2EncoderError.wrongInput("\(tokens.count) tokens; 1 to \(Self.lengths.last ?? 0) fit")
        }
        var arrays: [String: MLMultiArray] = [:]
        for input in Self.inputs {
            arrays[input] = try MLMultiArray(shape: [1, NSNumber(value: length)], dataType: .int32)
        }
        for position in 0..<length {
            let isToken = position < tokens.count
            arrays["input_ids"]?[position] = NSNumber(value: isToken ? tokens[position] : Self.padding)
        }
        return try run(arrays.mapValues { MLFeatureValue(multiArray: $0) })
    }

    private func run(_ values: [String: MLFeatureValue]) throws -> [Float] {
        let result = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: values))
        guard let found = result.featureValue(for: Self.output)?.multiArrayValue, found.count == Self.dimension else {
            throw MiniLM_L6_v2EncoderError.anotherModel(Self.output)
        }
        return (0..<found.count).map { found[$0].floatValue }
    }
}

@available(iOS 16.0, macOS 13.0, *)
public enum MiniLM_L6_v2EncoderError: Error {
    /// The compiled model has not this input or output, so it is another package's.
    case anotherModel(String)
    /// The file is not the one that the manifest lists.
    case changedFile(String)
    /// The call's input does not fit.
    case wrongInput(String)

    static func check(_ data: Data, _ sha256: String, _ path: String) throws {
        let found = SHA256.hash(data: data).map { String(format: "%02x", $0) }.joined()
        guard found == sha256 else { throw MiniLM_L6_v2EncoderError.changedFile(path) }
    }
}
