#!/usr/bin/env bash
# release.sh FOLDER: creates the files of a release: a zip of each function for each processor, their checksums, and an
# SBOM.
. "$(dirname "$0")/lib.sh"

folder=${1:-release}
check_prerequisites
ensure_cargo_tool cargo-cyclonedx 0.5.7
mkdir -p "$folder"
for architecture in x86_64 arm64; do
  ARCHITECTURE=$architecture scripts/build.sh
  for zip in target/lambda/*/bootstrap.zip; do
    cp "$zip" "$folder/$(basename "$(dirname "$zip")")-$architecture.zip"
  done
done
cargo cyclonedx --format json --target all --override-filename sbom.cdx
mv sbom.cdx.json "$folder/"
# It also writes a file into the other packages of the workspace.
git clean --quiet --force -- 'crates/*/sbom.cdx.json'
(cd "$folder" && sha256sum ./*.zip sbom.cdx.json >SHA256SUMS)
