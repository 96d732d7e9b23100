#!/usr/bin/env bash
# Builds what is released into dist/: for each platform an archive with a static
# binary, its SBOM and all licence texts, and the checksums of all. The same source and the same Go make the same binaries.
#
#   make release            VERSION is that of git
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
version=${VERSION:?use make release}
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
platforms=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}
case $version in
*-dirty) echo "note: the work tree has changes that are not committed: $version" >&2 ;;
esac

# Each module is the one that go.sum names, and go.mod is in order.
$go mod verify
$go mod tidy -diff
# The licence of each module is one of those that are fine.
$go test -count=1 -run '^(TestDocsDependencies|TestLicences)$' ./cmd/linkcancel

rm -rf dist
mkdir -p dist/tools
GOBIN=$PWD/dist/tools GOFLAGS= $go install "$cyclonedx"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}

for platform in $platforms; do
  export GOOS=${platform%/*} GOARCH=${platform#*/} CGO_ENABLED=0
  name=linkcancel_${version}_${GOOS}_${GOARCH}
  folder=dist/$name
  binary=$folder/linkcancel
  [ "$GOOS" = windows ] && binary=$binary.exe
  mkdir -p "$folder/licences"
  $go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$binary" ./cmd/linkcancel
  # Of the very modules that are in this binary.
  $go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/linkcancel |
    sort -u | while read -r module dir; do
      mkdir -p "$folder/licences/$module"
      find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'unlicense*' -o -iname 'notice*' -o -iname 'patents*' \) \
        -exec install -m 644 {} "$folder/licences/$module/" \;
      [ -n "$(ls "$folder/licences/$module")" ] || { echo "$module has no licence text" >&2; exit 1; }
    done
  mkdir -p "$folder/licences/go"
  install -m 644 "$($go env GOROOT)/LICENSE" "$folder/licences/go/LICENSE"
  install -m 644 LICENSE README.md SECURITY.md "$folder"
  dist/tools/cyclonedx-gomod app -json -licenses -std -noserial -main cmd/linkcancel -output "$folder/sbom.cdx.json" . 2> dist/tools/log ||
    { cat dist/tools/log >&2; exit 1; }
  install -m 644 "$folder/sbom.cdx.json" "dist/$name.cdx.json"
  case $platform in
  "$(env -u GOOS -u GOARCH "$go" env GOHOSTOS)/$(env -u GOOS -u GOARCH "$go" env GOHOSTARCH)")
    test "$("$binary" version --json | sed 's/.*"version":"\([^"]*\)".*/\1/')" = "$version" ;;
  esac
done
unset GOOS GOARCH

for platform in $platforms; do
  name=linkcancel_${version}_${platform%/*}_${platform#*/}
  tar -C dist --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -cf - "$name" | gzip -n -9 > "dist/$name.tar.gz"
  rm -rf "dist/$name"
done
rm -rf dist/tools
(cd dist && sha256sum -- *.tar.gz *.cdx.json > SHA256SUMS && sha256sum -c --quiet SHA256SUMS)
ls -l dist
