# `make help` lists the targets.

GO ?= go
# Packages that take long are tested first, so that nothing waits for one alone at the end.
PACKAGES ?= ./store ./cmd/systemtest/faults ./...
TESTFLAGS ?=

# Which packages are tested without the race detector. Package ownership decides in one goroutine, so
# there is nothing to find, and its simulation takes ten times as long. The model test of repartitions
# and the system tests, with hundreds of processes, take several times as long with it: test-long and
# chaos run them so.
WITHOUT_RACE ?= /cluster/ownership\|/cluster/internal/repartition\|/cmd/systemtest/
TIMEOUT ?= 40m

# Many tests wait for servers, so one package more than there are cores is tested at a time.
PARALLEL ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
FUZZTIME ?= 30s
BENCHTIME ?= 1s
RUNS ?= 20

# The Debian releases whose RabbitMQ and PostgreSQL `make engines` gets.
ENGINES ?= trixie forky
DURATION ?= 40s
SEED ?=
CHAOS ?= TestChaos

# The version of a build is the newest one in the changelog, and its commit.
VERSION := $(shell sed -n 's/^## \[\([0-9][^]]*\)\].*/\1/p' deploy/CHANGELOG.md | head -n 1)+$(shell git describe --always --exclude '*' --dirty 2>/dev/null || echo unknown)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)

.DEFAULT_GOAL := help

.PHONY: help dev build test test-long engines test-engines test-deploy release chaos chaos-engines check fmt fuzz bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target what; do printf '  make %-13s %s\n' "$$target" "$$what"; done

dev: ## run a cluster with a broker and a database of its own, until Ctrl-C
	@deploy/install-dependencies.sh
	@$(MAKE) --no-print-directory build
	@bin/glotpod-ident-dev

build: ## build the three programs into bin/, and their manual pages into bin/man/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION) -X github.com/glotpod/ident/cmd/internal/cli.Commit=$(COMMIT)' \
		-o bin/ ./cmd/glotpod-ident ./cmd/glotpod-ident-dev ./cmd/glotpod-ident-bench
	@mkdir -p bin/man
	@for program in glotpod-ident glotpod-ident-dev glotpod-ident-bench; do \
		bin/$$program man >bin/man/$$program.1 || exit 1; \
	done

test: ## check the source and run all tests (TESTFLAGS='-run Patch', PACKAGES=./store)
	@deploy/install-dependencies.sh test
	@$(MAKE) --no-print-directory check bin/with-servers
	$(GO) list $(PACKAGES) | { grep -v '$(WITHOUT_RACE)' || true; } | \
		xargs -r bin/with-servers $(GO) test -race -vet=off -p $(PARALLEL) -timeout $(TIMEOUT) $(TESTFLAGS)
	$(GO) list $(PACKAGES) | { grep '$(WITHOUT_RACE)' || true; } | \
		xargs -r bin/with-servers $(GO) test -vet=off -p $(PARALLEL) -timeout $(TIMEOUT) $(TESTFLAGS)

test-long: ## run all tests in their long form: more seeds, longer chaos, more samples
	@GLOTPOD_IDENT_TEST_LONG=1 $(MAKE) --no-print-directory test TIMEOUT=3h WITHOUT_RACE=/cluster/ownership

engines: ## put other RabbitMQs and PostgreSQLs into bin/engines (ENGINES=forky)
	@deploy/install-dependencies.sh engines
	@deploy/engines/make.sh bin/engines $(ENGINES)

test-engines: engines ## run all tests with each pair of these servers (ENGINES=forky, PACKAGES=./store)
	@deploy/install-dependencies.sh test
	@$(MAKE) --no-print-directory bin/with-servers
	@for suite in $(ENGINES); do \
		echo "RabbitMQ and PostgreSQL of $$suite"; \
		GLOTPOD_IDENT_RABBITMQ=$(CURDIR)/bin/engines/$$suite/rabbitmq GLOTPOD_IDENT_POSTGRES=$(CURDIR)/bin/engines/$$suite/postgres \
			bin/with-servers $(GO) test -count 1 -p $(PARALLEL) -timeout $(TIMEOUT) $(TESTFLAGS) $(PACKAGES) || exit 1; \
	done

test-deploy: ## test deploy/ with Helm, Kubernetes, systemd, Docker and npm (the first run builds them: half an hour)
	@deploy/install-dependencies.sh deploy
	@$(MAKE) --no-print-directory bin/with-servers
	deploy/prometheus/check.sh
	deploy/clients/check.sh
	@GO='$(GO)' deploy/deploytest/build-tools.sh
	cd deploy/release && $(GO) vet ./... && $(GO) test -count 1 -v ./...
	cd deploy/deploytest && $(GO) vet ./... && ../../bin/with-servers $(GO) test -count 1 -v -timeout 1h $(TESTFLAGS) ./...

release: ## build archives, packages, the image, the chart and bills of materials into dist/
	@cd deploy/release && $(GO) run . --root ../.. --out ../../dist
	@ls dist

chaos: ## cause faults in a cluster under load, RUNS times for DURATION (SEED=1 repeats the faults of a run)
	@deploy/install-dependencies.sh test
	$(GO) test -race -c -o bin/chaos.test ./cmd/systemtest/faults
	@for run in $$(seq $(RUNS)); do \
		seed=$(SEED); seed=$${seed:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
		echo "run $$run of $(RUNS), seed $$seed"; \
		(cd cmd/systemtest/faults && GLOTPOD_IDENT_CHAOS_SEED=$$seed GLOTPOD_IDENT_CHAOS_DURATION=$(DURATION) \
			../../../bin/chaos.test -test.run '^$(CHAOS)$$' -test.v -test.timeout 1h) || \
			{ echo "repeat it with: make chaos CHAOS=$(CHAOS) RUNS=1 DURATION=$(DURATION) SEED=$$seed" >&2; exit 1; }; \
	done

chaos-engines: CHAOS = TestClusterChaos
chaos-engines: RUNS = 10
chaos-engines: DURATION = 60s
chaos-engines: chaos ## cause faults in a cluster of broker nodes and a replicated database too

check: ## check the format, and run go vet, staticcheck and errorlint
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || \
		{ echo "not formatted, run make fmt: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	@cd deploy/lint && $(GO) build -buildvcs=false -o ../../bin/lint/ tool ./errorlint
	$(GO) vet -vettool=bin/lint/errorlint ./...
	bin/lint/staticcheck ./...

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

clean: ## remove bin/ and dist/
	rm -rf bin dist

# with-servers runs a command with a private broker and database, which the tests use.
.PHONY: bin/with-servers
bin/with-servers:
	@$(GO) build -o $@ ./deploy/testservers/run
