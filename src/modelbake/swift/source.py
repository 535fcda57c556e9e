"""Swift source for one package of a bundle: its interface from the manifest, in templates that lie beside this module."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from modelbake.errors import IntegrityError, UsageError
from modelbake.files import files_below, folder_digest
from modelbake.manifest import Artifact, BundleEntry, CoremlPackage, ImagePreprocessing
from modelbake.swift.tokenizer import WordPiece, read_wordpiece

_TEMPLATES = Path(__file__).parent
_PLACEHOLDER = re.compile(r"@[A-Z_]+@")
_TEXT_INPUTS = ("input_ids", "attention_mask")


def swift_source(models: Path, entry: BundleEntry, artifact: Artifact) -> str:
    """A Swift file that calls the artifact's package, whose tokenizer, if it has one, is read from `models`. Same bundle, same text.

    UsageError where the artifact is no Core ML package, or one that this does not write Swift for.
    """
    package = artifact.coreml
    if package is None:
        raise UsageError(f"{artifact.path} is {artifact.format}; Swift is written for Core ML packages.")
    stem = PurePosixPath(package.package).stem
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", stem):
        raise UsageError(f"{package.package}: {stem!r} is no name in Swift; give the bundle another package name.")
    if len(artifact.outputs) != 1 or artifact.embedding_dimension is None:
        raise UsageError(f"{package.package} gives more than one embedding; Swift is written for encoders.")
    words = _common(entry, artifact, package, f"{stem}Encoder")
    tokenizer = ""
    if artifact.role == "text_encoder":
        wordpiece = _wordpiece(models, artifact)
        words |= _text_words(artifact, package, wordpiece)
        calls = _template("text")
        if wordpiece is not None:
            calls = _template("texts_embed") + calls
            tokenizer = _template("wordpiece")
            words |= _tokenizer_words(entry, artifact, wordpiece)
    elif artifact.role == "image_encoder" and artifact.preprocessing is not None:
        words |= _image_words(artifact, package, artifact.preprocessing)
        calls = _template("image")
    else:
        raise UsageError(
            f"{package.package} is a {artifact.role}; Swift is written for text encoders and image encoders."
        )
    whole = _header(entry, artifact) + _template("encoder").replace("@CALLS@\n", f"{calls}\n") + tokenizer
    return _PLACEHOLDER.sub(lambda found: words[found[0].strip("@")], whole)


def _header(entry: BundleEntry, artifact: Artifact) -> str:
    vision = "import Vision\n" if artifact.role == "image_encoder" else ""
    chosen = f"{entry.name} --role {artifact.role} --precision {artifact.precision}"
    sample = ", SAMPLE WEIGHTS (random)" if entry.weights == "sample" else ""
    return (
        f"// Written by `modelbake coreml swift {chosen}`\n"
        f"// from the manifest of {entry.name} {_literal(entry.version)[1:-1]}{sample}. "
        "Write it anew for another version instead of changing it.\n"
        f"\nimport CoreML\nimport CryptoKit\nimport Foundation\n{vision}\n"
    )


def _common(entry: BundleEntry, artifact: Artifact, package: CoremlPackage, name: str) -> dict[str, str]:
    fp32 = artifact.precision == "fp32"
    return {
        "TITLE": f"{PurePosixPath(package.package).name}: {artifact.role.replace('_', ' ')}, {artifact.precision}, "
        f"verified on {'a Mac' if package.verified_on == 'apple' else 'Linux, on no Mac'}.",
        "AVAILABLE": _available(package),
        "TYPE": name,
        "BUNDLE": entry.name,
        "VERSION": _literal(entry.version),
        "PACKAGE": PurePosixPath(package.package).stem,
        "PACKAGE_DIGEST": folder_digest(entry.files, package.package),
        "DIMENSION": str(artifact.embedding_dimension),
        "FILES": "\n".join(
            f"        ({_literal(ref.path)}, {_literal(ref.sha256)}),"
            for ref in files_below(entry.files, package.package)
        ),
        "OUTPUT": _literal(artifact.outputs[0].name),
        "NORMALIZED": ", of length 1, so that a dot product of two is their cosine" if artifact.normalized else "",
        "UNITS": "Float32 runs on CPU and GPU; the Neural Engine has float16 alone."
        if fp32
        else "Where its operations run best, the `placement` of a Mac's host report says.",
        "DEFAULT_UNITS": "cpuAndGPU" if fp32 else "all",
        "MEMBERS": "",
        "PARAMETERS": "",
        "ASSIGNMENTS": "",
    }


def _text_words(artifact: Artifact, package: CoremlPackage, wordpiece: WordPiece | None) -> dict[str, str]:
    names = tuple(tensor.name for tensor in artifact.inputs)
    if names not in (_TEXT_INPUTS, _TEXT_INPUTS[:1]) or any(tensor.dtype != "int32" for tensor in artifact.inputs):
        raise UsageError(
            f"{package.package} takes {', '.join(names)}; Swift is written for int32 {' and '.join(_TEXT_INPUTS)}."
        )
    members = (
        "    /// The lengths of texts that the package takes, in tokens; a text is padded to the next one.\n"
        f"    public static let lengths = [{', '.join(map(str, artifact.sequence_lengths))}]\n"
        f"    private static let padding: Int32 = {wordpiece.padding if wordpiece else 0}\n"
    )
    mask = '            arrays["attention_mask"]?[position] = NSNumber(value: isToken ? 1 : 0)\n'
    checks = (
        "        for input in Self.inputs {\n"
        "            let found = model.modelDescription.inputDescriptionsByName[input]?.multiArrayConstraint\n"
        "            guard found?.dataType == .int32 else { throw @TYPE@Error.anotherModel(input) }\n"
        "        }\n"
    )
    words = {
        "INPUTS": f"    private static let inputs = [{', '.join(map(_literal, names))}]\n",
        "CHECKS": checks,
        "MEMBERS": members,
        "MASK": mask if _TEXT_INPUTS[1] in names else "",
    }
    if wordpiece is not None:
        words["MEMBERS"] = f"    private let tokenizer: @TYPE@Tokenizer\n{members}"
        words["PARAMETERS"] = "tokenizer: URL, "
        words["ASSIGNMENTS"] = "        self.tokenizer = try @TYPE@Tokenizer(contentsOf: tokenizer)\n"
    own = f"{PurePosixPath(package.package).stem}Encoder"
    return {name: text.replace("@TYPE@", own) for name, text in words.items()}


def _image_words(artifact: Artifact, package: CoremlPackage, spec: ImagePreprocessing) -> dict[str, str]:
    (image, *more) = artifact.inputs
    # What the exporter writes for an image input: RGB of 8 bits a channel.
    if more or image.dtype != "uint8" or image.shape != (1, 3, spec.size, spec.size):
        raise UsageError(
            f"{package.package} takes {image.name} of {image.dtype} {list(image.shape)}; Swift is written for an image of "
            f"uint8 [1, 3, {spec.size}, {spec.size}]."
        )
    own = f"{PurePosixPath(package.package).stem}Encoder"
    checks = (
        "        let found = model.modelDescription.inputDescriptionsByName[Self.input]?.imageConstraint\n"
        "        guard found?.pixelsWide == Self.side, found?.pixelsHigh == Self.side else {\n"
        f"            throw {own}Error.anotherModel(Self.input)\n"
        "        }\n"
    )
    return {
        "INPUTS": f"    private static let input = {_literal(image.name)}\n",
        "CHECKS": checks,
        "MEMBERS": f"    public static let side = {spec.size}\n",
        "INTERPOLATION": spec.interpolation,
    }


def _wordpiece(models: Path, artifact: Artifact) -> WordPiece | None:
    """The tokenizer's facts; None where the app must tokenise itself, as CLIP's texts are mended by more than Swift has."""
    spec = artifact.tokenizer
    return read_wordpiece(models / spec.path) if spec is not None and spec.format == "tokenizer.json" else None


def _tokenizer_words(entry: BundleEntry, artifact: Artifact, wordpiece: WordPiece) -> dict[str, str]:
    assert artifact.tokenizer is not None
    path = artifact.tokenizer.path
    (sha256,) = [ref.sha256 for ref in entry.files if ref.path == path]
    clean = (
        "            if original.value == 0 || original.value == 0xFFFD || isControl(original) { continue }\n"
        '            let scalar: Unicode.Scalar = original.properties.isWhitespace ? " " : original\n'
    )
    chinese = (
        '            if isIdeograph(scalar) {\n                scalars += [" ", scalar, " "]\n'
        "                continue\n            }\n"
    )
    accents = (
        "        scalars = string(scalars[...]).decomposedStringWithCanonicalMapping.unicodeScalars\n"
        "            .filter { $0.properties.generalCategory != .nonspacingMark }\n"
    )
    lowercase = "        scalars = scalars.flatMap { Array($0.properties.lowercaseMapping.unicodeScalars) }\n"
    return {
        "TOKENIZER": _literal(PurePosixPath(path).name),
        "TOKENIZER_DIGEST": sha256,
        "SPECIAL": "\n".join(f"        (Array({_literal(t)}.utf8), {number})," for t, number in wordpiece.special),
        "BEFORE": ", ".join(map(str, wordpiece.before)),
        "AFTER": ", ".join(map(str, wordpiece.after)),
        "UNKNOWN": str(wordpiece.unknown),
        "CONTINUATION": _literal(wordpiece.continuation),
        "MOST_TOKENS": str(min(artifact.tokenizer.max_tokens, artifact.sequence_lengths[-1])),
        "LONGEST_WORD": str(wordpiece.longest_word),
        "CLEAN": clean if wordpiece.clean_text else "            let scalar = original\n",
        "CHINESE": chinese if wordpiece.chinese else "",
        "ACCENTS": accents if wordpiece.strip_accents else "",
        "LOWERCASE": lowercase if wordpiece.lowercase else "",
    }


def _available(package: CoremlPackage) -> str:
    systems = sorted(package.minimum_os.items())
    for name, version in systems:
        if not re.fullmatch("[A-Za-z]+", name) or not re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
            raise IntegrityError(
                f"{package.package}: {name} {version} in minimum_os is no system's version; build the bundle again."
            )
    return ", ".join([*(f"{name} {version}" for name, version in systems), "*"])


def _literal(text: str) -> str:
    """The text as a string of Swift."""
    plain = (c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in text)
    return f'"{"".join(plain)}"'


def _template(name: str) -> str:
    return (_TEMPLATES / f"{name}.swift").read_text(encoding="utf-8")
