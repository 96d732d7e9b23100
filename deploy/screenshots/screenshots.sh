#!/bin/sh
# Draws the dashboard with the data of a fleet that is at work for some minutes:
# docs/dashboard.png and docs/dashboard-all.png. make screenshots runs it.
set -eu
cd "$(dirname "$0")"
GO=${GO:-go}
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || echo chromium)}
export CHROMIUM

missing=
for tool in "$GO" node npm redis-server prometheus "$CHROMIUM"; do
  command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
  echo "missing:$missing (Debian: apt-get install nodejs npm redis-server prometheus chromium)" >&2
  exit 1
fi
if [ "$(node -p 'parseInt(process.versions.node)')" -lt 20 ]; then
  echo "node is $(node --version), 20 or later is needed" >&2
  exit 1
fi

npm ci --ignore-scripts
cd ../proof
SCREENSHOTS=1 "$GO" test -count=1 -v -timeout 15m -run '^TestScreenshots$' ./live
