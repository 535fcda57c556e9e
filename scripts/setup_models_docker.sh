#!/usr/bin/env bash
# The steps of one bundle inside an image build, each as one RUN: fetch has a network, build and verify need none.
#
#   setup_models_docker.sh fetch BUNDLE WEIGHTS SOURCES     bring the source files into SOURCES
#   setup_models_docker.sh build BUNDLE SOURCES MODELS      export and verify into MODELS
#   setup_models_docker.sh verify MODELS                    hash everything again, replay all goldens
set -euo pipefail

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

case "${1:-} $#" in
"fetch 4")
    [[ $3 == pretrained || $3 == sample ]] || usage # The image's label says which; the build may not choose.
    exec modelbake fetch "$2" --weights "$3" --to "$4"
    ;;
"build 4") exec modelbake build "$2" --sources "$3" --models-dir "$4" ;;
"verify 2") exec modelbake verify --models-dir "$2" ;;
*) usage ;;
esac
