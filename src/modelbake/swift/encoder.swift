/// @TITLE@
///
/// An actor, since a loaded model serves one prediction at a time.
@available(@AVAILABLE@)
public actor @TYPE@ {
    /// What the manifest says of the package; `packageDigest` changes with every byte of it.
    public static let bundle = "@BUNDLE@"
    public static let version = @VERSION@
    public static let packageDigest = "@PACKAGE_DIGEST@"
    public static let dimension = @DIMENSION@

    private static let packageFiles: [(path: String, sha256: String)] = [
@FILES@
    ]
@INPUTS@    private static let output = @OUTPUT@

    private let model: MLModel
@MEMBERS@
    /// Loads a compiled model (.mlmodelc): the one that Xcode puts into the app, or `compiled(package:)`'s.
    ///
    /// @UNITS@
    public init(compiledModel: URL, @PARAMETERS@computeUnits: MLComputeUnits = .@DEFAULT_UNITS@) async throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = computeUnits
        let model = try await MLModel.load(contentsOf: compiledModel, configuration: configuration)
@CHECKS@        guard model.modelDescription.outputDescriptionsByName[Self.output]?.multiArrayConstraint != nil else {
            throw @TYPE@Error.anotherModel(Self.output)
        }
        self.model = model
@ASSIGNMENTS@    }

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
        var folder = support.appendingPathComponent("\(app)/CompiledModels/@PACKAGE@", isDirectory: true)
        let kept = folder.appendingPathComponent("\(packageDigest).mlmodelc", isDirectory: true)
        if files.fileExists(atPath: kept.path) { return kept }
        for file in packageFiles {
            let data = try Data(contentsOf: package.appendingPathComponent(file.path), options: .mappedIfSafe)
            try @TYPE@Error.check(data, file.sha256, file.path)
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

@CALLS@
    private func run(_ values: [String: MLFeatureValue]) throws -> [Float] {
        let result = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: values))
        guard let found = result.featureValue(for: Self.output)?.multiArrayValue, found.count == Self.dimension else {
            throw @TYPE@Error.anotherModel(Self.output)
        }
        return (0..<found.count).map { found[$0].floatValue }
    }
}

@available(@AVAILABLE@)
public enum @TYPE@Error: Error {
    /// The compiled model has not this input or output, so it is another package's.
    case anotherModel(String)
    /// The file is not the one that the manifest lists.
    case changedFile(String)
    /// The call's input does not fit.
    case wrongInput(String)

    static func check(_ data: Data, _ sha256: String, _ path: String) throws {
        let found = SHA256.hash(data: data).map { String(format: "%02x", $0) }.joined()
        guard found == sha256 else { throw @TYPE@Error.changedFile(path) }
    }
}
