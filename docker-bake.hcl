# What is built, and nothing else. `docker buildx bake` builds the default group; `make bake` does so on any machine.

variable "REGISTRY" { default = "" }
variable "TAG" { default = "dev" }
# pretrained: the real weights or an error; sample: random ones from a fixed seed. `make bake` chooses for each bundle.
variable "WEIGHTS" { default = "pretrained" }
variable "BASE_IMAGE" { default = "python:3.11-slim" }
# 1: a bundle whose bytes are not all pinned is refused (exit 8).
variable "LOCKED" { default = "" }
variable "HF_ENDPOINT" { default = "" }
variable "HF_HUB_OFFLINE" { default = "" }
# Another index of CPU builds of torch than PyTorch's own; scripts/install_torch.sh tells what happens where it does not answer.
variable "TORCH_INDEX" { default = "" }
# Into the engine, without packing what does not pack: gzip takes longer than all else here and saves nothing on weights.
variable "LOAD" { default = "type=docker,compression=uncompressed" }
variable "RELEASE" { default = "type=image,push=true,compression=uncompressed,oci-mediatypes=true" }
variable "PLATFORMS" { default = "" }
variable "SOURCE_DATE_EPOCH" { default = "0" }

# The bundles: how many files each has, the manifest included (one image layer a file), the folder that holds a local source and
# weights of one's own (models/.dockerignore names what a build takes of it), and whether it is the default of its kind, which the
# search image holds.
variable "BUNDLES" {
  default = [
    { name = "arctic-embed-xs-coreml", layers = 15, data = "", trained = false, default = false },
    { name = "boundary-regressor", layers = 4, data = "models", trained = true, default = true },
    { name = "clip-rn50", layers = 7, data = "", trained = false, default = false },
    { name = "clip-vit-b-16", layers = 7, data = "", trained = false, default = false },
    { name = "clip-vit-b-32", layers = 11, data = "", trained = false, default = true },
    { name = "clip-vit-b-32-coreml", layers = 21, data = "", trained = false, default = false },
    { name = "minilm-l6-v2", layers = 9, data = "", trained = false, default = true },
    { name = "minilm-l6-v2-coreml", layers = 15, data = "", trained = false, default = false },
    { name = "ms-marco-reranker", layers = 9, data = "", trained = false, default = true },
  ]
}

# The default bundles; the others are built by name, or with `bundles` or `all`.
group "default" { targets = concat(["runtime", "search"], [for bundle in BUNDLES : "bundle-${bundle.name}" if bundle.default]) }
group "bundles" { targets = ["bundle"] }
# What is published: pushed, with provenance, for PLATFORMS, from and into a build cache in the registry.
group "release" { targets = ["published"] }
group "all" { targets = ["base-image", "converter", "runtime", "bundles", "search"] }

function "image" {
  params = [name]
  result = ["${REGISTRY}modelbake/${name}:${TAG}"]
}

# The files of the default bundles with one manifest instead of one each; HCL here has no sum().
function "search_layers" {
  params = [bundles]
  result = length(flatten([for bundle in bundles : range(bundle.layers - 1) if bundle.default])) + 1
}

target "_common" {
  context   = "."
  platforms = PLATFORMS == "" ? null : split(",", PLATFORMS)
  args      = { SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH }
  # A plain image, whose digest depends on its content alone.
  attest = ["type=provenance,disabled=true"]
  labels = {
    "org.opencontainers.image.licenses" = "Apache-2.0"
    "org.opencontainers.image.version"  = TAG
  }
}

target "base-image" {
  inherits   = ["_common"]
  dockerfile = "images/base/Dockerfile"
  tags       = image("base-image")
  args       = { BASE_IMAGE = BASE_IMAGE }
  labels     = { "org.opencontainers.image.title" = "modelbake base image" }
}

target "converter" {
  inherits   = ["_common"]
  dockerfile = "images/converter/Dockerfile"
  tags       = image("converter")
  contexts   = { base-image = "target:base-image" }
  args       = { TORCH_INDEX = TORCH_INDEX }
  labels     = { "org.opencontainers.image.title" = "modelbake converter: fetches, exports and verifies bundles" }
}

target "runtime" {
  inherits   = ["_common"]
  dockerfile = "images/runtime/Dockerfile"
  tags       = image("runtime")
  contexts   = { base-image = "target:base-image" }
  labels     = { "org.opencontainers.image.title" = "modelbake runtime: answers from bundles, holds none" }
  output     = [LOAD]
}

# The files of each bundle as one tree a file; bundle-<name> and search make their layers from such trees.
target "trees" {
  name       = "trees-${bundle.name}"
  matrix     = { bundle = BUNDLES }
  inherits   = ["_common"]
  dockerfile = "images/bundle/Dockerfile"
  contexts   = merge({ converter = "target:converter" }, bundle.data == "" ? {} : { data = bundle.data })
  args = {
    BUNDLE         = bundle.name
    LAYERS         = bundle.layers
    WEIGHTS        = WEIGHTS
    LOCKED         = LOCKED
    HF_ENDPOINT    = HF_ENDPOINT
    HF_HUB_OFFLINE = HF_HUB_OFFLINE
    DATA           = bundle.data == "" ? "data" : bundle.data
  }
  output     = ["type=cacheonly"]
}

target "bundle" {
  name       = "bundle-${bundle.name}"
  matrix     = { bundle = BUNDLES }
  inherits   = ["_common"]
  dockerfile = "images/layered/Dockerfile"
  tags       = image("bundle-${bundle.name}")
  contexts   = { trees = "target:trees-${bundle.name}" }
  args       = { LAYERS = format("%02d", bundle.layers) }
  labels = {
    "org.opencontainers.image.title" = "modelbake bundle ${bundle.name}"
    "io.modelbake.bundles"           = bundle.name
    "io.modelbake.weights"           = "${bundle.name}=${bundle.trained ? "trained" : WEIGHTS}"
  }
  output = [LOAD]
}

target "trees-search" {
  inherits   = ["_common"]
  dockerfile = "images/search/Dockerfile"
  contexts = merge(
    { runtime = "target:runtime" },
    { for bundle in BUNDLES : bundle.name => "target:bundle-${bundle.name}" if bundle.default },
  )
  args   = { LAYERS = search_layers(BUNDLES) }
  output = ["type=cacheonly"]
}

target "search" {
  inherits   = ["_common"]
  dockerfile = "images/layered/Dockerfile"
  tags       = image("search")
  contexts   = { base = "target:runtime", trees = "target:trees-search" }
  args       = { LAYERS = format("%02d", search_layers(BUNDLES)) }
  labels = {
    "org.opencontainers.image.title" = "modelbake search: the runtime and the default bundles"
    "io.modelbake.bundles"           = join(",", [for bundle in BUNDLES : bundle.name if bundle.default])
    "io.modelbake.weights"           = join(",", [for bundle in BUNDLES : "${bundle.name}=${bundle.trained ? "trained" : WEIGHTS}" if bundle.default])
  }
  output = [LOAD]
}

target "published" {
  name       = "release-${image}"
  matrix     = { image = concat(["runtime", "search"], [for bundle in BUNDLES : "bundle-${bundle.name}"]) }
  inherits   = [image]
  attest     = ["type=provenance,mode=max"]
  cache-from = ["type=registry,ref=${REGISTRY}modelbake/cache:${image}"]
  cache-to   = ["type=registry,ref=${REGISTRY}modelbake/cache:${image},mode=max,ignore-error=true"]
  output     = [RELEASE]
}
