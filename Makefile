# What there is to do here: make help

GO ?= go
PACKAGES ?= ./...
TESTFLAGS ?=
FUZZTIME ?= 30s
BENCHTIME ?= 1s
RUNS ?= 20
DURATION ?= 40s
SEED ?=

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

.DEFAULT_GOAL := help

.PHONY: help dev build test test-deploy chaos check fmt fuzz bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target what; do printf '  make %-11s %s\n' "$$target" "$$what"; done

dev: ## run a cluster with a broker and a database of its own, until Ctrl-C
	@deploy/install-dependencies.sh
	@$(MAKE) --no-print-directory build
	@bin/glotpod-ident dev

build: ## build bin/glotpod-ident
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/glotpod-ident ./cmd/glotpod-ident

test: ## check the source, and run all tests (TESTFLAGS='-run Patch', PACKAGES=./store)
	@deploy/install-dependencies.sh test
	@$(MAKE) --no-print-directory check bin/with-servers
	bin/with-servers $(GO) test -race -timeout 40m $(TESTFLAGS) $(PACKAGES)

test-deploy: ## test what is in deploy/ with Helm, a Kubernetes and systemd (builds them: half an hour the first time)
	@deploy/install-dependencies.sh deploy
	deploy/prometheus/check.sh
	@$(MAKE) --no-print-directory bin/with-servers
	@GO='$(GO)' deploy/deploytest/build-tools.sh
	cd deploy/deploytest && $(GO) vet ./... && ../../bin/with-servers $(GO) test -count 1 -v -timeout 1h $(TESTFLAGS) ./...

chaos: ## let faults happen to a cluster, RUNS times for DURATION (SEED=1 draws them as that run did)
	@deploy/install-dependencies.sh test
	$(GO) test -race -c -o bin/chaos.test ./cmd/systemtest
	@for run in $$(seq $(RUNS)); do \
		seed=$(SEED); seed=$${seed:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
		echo "run $$run of $(RUNS), seed $$seed"; \
		(cd cmd/systemtest && GLOTPOD_IDENT_CHAOS_SEED=$$seed GLOTPOD_IDENT_CHAOS_DURATION=$(DURATION) \
			../../bin/chaos.test -test.run '^TestChaosLoses' -test.v -test.timeout 1h) || \
			{ echo "once more: make chaos RUNS=1 DURATION=$(DURATION) SEED=$$seed" >&2; exit 1; }; \
	done

check: ## check the source's format, and vet it
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || \
		{ echo "not formatted (make fmt does that): $$unformatted" >&2; exit 1; }
	$(GO) vet ./...

fmt: ## format the source
	gofmt -w .

fuzz: ## fuzz each target for FUZZTIME
	@deploy/install-dependencies.sh
	@grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n 1 dirname | sort -u | while read -r package; do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package </dev/null || exit 1; \
		done || exit 1; \
	done

bench: ## run the benchmarks (PACKAGES=./store, BENCHTIME=5s)
	@deploy/install-dependencies.sh
	@$(MAKE) --no-print-directory bin/with-servers
	bin/with-servers $(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(PACKAGES)

clean: ## remove what was built
	rm -rf bin

# It runs a command with a private broker and database for the tests in it.
.PHONY: bin/with-servers
bin/with-servers:
	@$(GO) build -o $@ ./deploy/testservers/run
