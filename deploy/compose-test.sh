#!/usr/bin/env bash
# Proves docker-compose.yml on a Docker engine, and needs no registry: the images
# that the file takes from one are made here from what Debian's packages
# redis-server, prometheus and busybox-static put on this machine, and Grafana is
# left out. Called by make compose-test; Compose 2.24 or later.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "compose-test: $*" >&2; exit 1; }
for tool in docker go redis-server redis-cli prometheus promtool busybox; do
  command -v "$tool" >/dev/null || die "no $tool here"
done
docker info >/dev/null 2>&1 || die "no Docker engine answers"
docker compose version >/dev/null 2>&1 || die "docker has no compose plugin"

work=$(mktemp -d)
export COMPOSE_PROJECT_NAME=linkcancel-test-$$ COMPOSE_FILE=docker-compose.yml COMPOSE_ENV_FILES=/dev/null
export LINKCANCEL_IMAGE=linkcancel-test/linkcancel:$$ LINKCANCEL_VERSION=compose-test LINKCANCEL_RATE=400/s PROMETHEUS_PORT=0
export GO_IMAGE=linkcancel-test/golang:$$ REDIS_IMAGE=linkcancel-test/redis:$$ PROMETHEUS_IMAGE=linkcancel-test/prometheus:$$
export DOCKER_BUILDKIT=1
compose() { docker compose --ansi never --progress quiet "$@"; }

cleanup() {
  code=$?
  if [ $code != 0 ]; then compose logs --tail 40 >&2 || true; fi
  compose --profile '*' down --volumes --timeout 20 >&2 || true
  docker image rm --force "$LINKCANCEL_IMAGE" "$GO_IMAGE" "$REDIS_IMAGE" "$PROMETHEUS_IMAGE" >/dev/null 2>&1 || true
  rm -rf "$work"
  exit $code
}
trap cleanup EXIT

# pack DIR PROGRAM…: puts programs under DIR/usr/bin, with the libraries they want.
pack() {
  local dir=$1 program; shift
  mkdir -p "$dir/usr/bin" "$dir/tmp"
  chmod 1777 "$dir/tmp"
  for program; do
    program=$(command -v "$program")
    cp -L "$program" "$dir/usr/bin/"
    { ldd "$program" 2>/dev/null || true; } | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' |
      while read -r library; do mkdir -p "$dir$(dirname "$library")"; cp -L "$library" "$dir$library"; done
  done
}
# image NAME DIR OWNER GROUP [CHANGE…]: makes an image of a folder, all of it that user's.
image() {
  local name=$1 dir=$2 owner=$3 group=$4 change=() c; shift 4
  for c; do change+=(--change "$c"); done
  tar -C "$dir" --owner=":$owner" --group=":$group" -c . | docker import "${change[@]}" - "$name" >/dev/null
}

echo "== images"
pack "$work/redis" redis-server redis-cli
mkdir "$work/redis/data"
image "$REDIS_IMAGE" "$work/redis" 999 1000 'ENV PATH=/usr/bin' 'WORKDIR /data'

pack "$work/prometheus" prometheus promtool
mkdir "$work/prometheus/prometheus"
image "$PROMETHEUS_IMAGE" "$work/prometheus" 65534 65534 'ENV PATH=/usr/bin' 'ENTRYPOINT ["prometheus"]'

# The stand-in for golang: this machine's Go, a shell, root certificates, and the
# modules of go.mod, since the build may have no way out.
pack "$work/golang" busybox
mkdir -p "$work/golang/bin" "$work/golang/usr/local" "$work/golang/etc/ssl/certs" "$work/golang/go/pkg"
for applet in sh mkdir cp chmod; do ln -s /usr/bin/busybox "$work/golang/bin/$applet"; done
cp -a "$(go env GOROOT)" "$work/golang/usr/local/go"
cp -L /etc/ssl/certs/ca-certificates.crt "$work/golang/etc/ssl/certs/"
GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" GOMODCACHE="$work/golang/go/pkg/mod" \
  GOFLAGS=-modcacherw go mod download
image "$GO_IMAGE" "$work/golang" 0 0 'ENV PATH=/usr/local/go/bin:/bin' 'ENV GOMODCACHE=/go/pkg/mod' 'ENV GOPROXY=off' \
  'ENV GOTOOLCHAIN=local' 'ENV HOME=/tmp'
compose build worker
docker run --rm --read-only "$LINKCANCEL_IMAGE" version

echo "== up"
compose up --detach --wait --wait-timeout 120 --no-build redis sandbox worker prometheus
[ "$(compose ps --quiet worker | wc -l)" = 2 ] || die "there are not two workers"
for id in $(compose ps --quiet worker sandbox); do
  set -- $(docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.State.Health.Status}}' "$id")
  [ "$*" = "65532:65532 true [ALL] healthy" ] || die "container $id is not as it should be: $*"
done
compose exec -T redis redis-cli config get maxmemory-policy | grep -qx noeviction || die "Redis may evict"

echo "== drain"
compose run --rm -T --no-deps cli import links.csv --id compose-test --yes
compose run --rm -T --no-deps cli batch watch compose-test
compose run --rm -T --no-deps cli batch show compose-test --json | tee "$work/batch.json"
grep -q '"state": *"done"' "$work/batch.json" || die "the batch is not done"
grep -q '"total": *5000' "$work/batch.json" || die "the batch has not all links"
# Standard input goes through, too; it is the same batch.
compose run --rm -T --no-deps cli batch report compose-test --format csv > "$work/report.csv"
compose run --rm -T --no-deps cli import - --id compose-test --yes < "$work/report.csv" | grep -qx compose-test ||
  die "the links from standard input are not the same batch"

echo "== what Prometheus sees"
url=http://$(compose port prometheus 9090)
# ask QUERY ANSWER: waits until Prometheus, which scrapes every few seconds, says so.
ask() {
  local have= i
  for i in $(seq 60); do
    have=$(promtool query instant "$url" "$1" | sed 's/.*=> \(.*\) @.*/\1/')
    [ "$have" = "$2" ] && { echo "$1 = $2"; return; }
    sleep 1
  done
  die "$1 is ${have:-nothing}, not $2"
}
ask 'sum(up{job="linkcancel"})' 2
ask 'sum(linkcancel_outcomes_total)' 5000
ask 'count(sum by (instance) (linkcancel_outcomes_total) > 500)' 2

echo "== down"
for id in $(compose ps --quiet worker); do workers="${workers:-} $id"; done
compose stop worker
for id in $workers; do
  code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
  [ "$code" = 0 ] || die "a worker ended with $code at SIGTERM"
done
compose --profile '*' down --volumes --timeout 20
for kind in container network volume; do
  left=$(docker "$kind" ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
  [ -z "$left" ] || die "a $kind is left: $left"
done
echo "compose-test: fine"
