#!/bin/sh
# Checks cluster/asyncapi.yaml, and the TypeScript client by the conformance suite. The packages of npm, which
# package-lock.json names with their digests, go to bin/clients.
set -eu
cd "$(dirname "$0")/../.."
built=bin/clients/typescript
mkdir -p $built
cp deploy/clients/typescript/* $built/
cmp -s $built/package-lock.json $built/installed || {
	npm ci --prefix $built --ignore-scripts --no-audit --no-fund --loglevel error
	cp $built/package-lock.json $built/installed
}
node $built/asyncapi.mjs cluster/asyncapi.yaml
$built/node_modules/.bin/tsc --project $built
bin/with-servers "${GO:-go}" test -count 1 -tags npm -run TestTypeScript ./cmd/systemtest/clients
