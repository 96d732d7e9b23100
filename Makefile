# linkcancel: make help lists the targets.

GO         ?= go
# make check vets.
TEST       := $(GO) test -vet=off
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS    := -s -w -X main.version=$(VERSION)
FUZZTIME   ?= 30s
BENCH      ?= -docs ../../docs

# Linters, pinned; staticcheck.conf says why each check is on or off.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
ERRCHECK    := github.com/kisielk/errcheck@v1.30.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.DEFAULT_GOAL := help
.PHONY: help build image demo test check fmt-check vet lint vuln docs docs-check fuzz bench bench-micro cover tools api page page-pictures proof screenshots chaos chaos-mutants mutants chaos-scenarios draws failover compose-test release clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/linkcancel
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/linkcancel ./cmd/linkcancel

image: ## Build the container image linkcancel:local
	docker build -f deploy/Dockerfile -t linkcancel:local \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

demo: build ## Cancel 1,000 sandbox links: no key, no services
	@bin/linkcancel demo

# The race detector does not look into the embedded Redis' Lua interpreter, where it would spend
# a third of its time. The interpreter has no synchronization of its own.
RACE := -gcflags=github.com/yuin/gopher-lua/...=-race=false

# As root in CI what is missing is installed; elsewhere the tests use what is
# there, and say what they left out. Many tests wait for a real Redis, so more of
# them run at the same time than there are processors.
test: ## Run all tests; with -race and a real Redis where the machine has them
	@sh .ci/tools
	@race=; if command -v $${CC:-gcc} >/dev/null 2>&1; then race='-race $(RACE)'; \
	  else echo "left out: the race detector (install gcc to have it)"; fi; \
	if ! command -v redis-server >/dev/null 2>&1; then \
	  echo "left out: tests on a real Redis (apt-get install redis-server to have them)"; fi; \
	if [ -n "$$race" ]; then export CGO_ENABLED=1; fi; \
	set -x; $(TEST) $$race -count=1 -parallel 6 -timeout 40m ./...

check: fmt-check vet lint vuln docs-check ## Check format, vet, lint, vulnerabilities, import graph and generated documents

fmt-check:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "not gofmt-ed:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...
	@$(GO) mod tidy -diff

lint: ## Run the linters
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(ERRCHECK) -exclude .errcheck -ignoretests ./...

# A machine without access to the database cannot run it, which is no finding.
vuln: ## Look for known vulnerabilities in what the code calls
	@if command -v curl >/dev/null && ! curl -sfo /dev/null --max-time 10 https://vuln.go.dev/index/db.json; then \
	  echo "left out: govulncheck (its database, vuln.go.dev, cannot be reached)"; exit 0; fi; \
	out=$$($(GO) run $(GOVULNCHECK) ./... 2>&1) || { \
	  if echo "$$out" | grep -q 'fetching vulnerabilities:'; then echo "left out: govulncheck (its database, vuln.go.dev, cannot be reached)"; \
	  else echo "$$out"; exit 1; fi; }

# The tests of documents are in few packages.
DOCS := $(TEST) -count=1 -run 'TestImports|TestDocs|TestDeploy' \
  $$(grep -rlE '^func Test(Imports|Docs|Deploy)' --include='*_test.go' . | xargs -n 1 dirname | sort -u)

docs: ## Write what is generated: parts of docs, the rules for Kubernetes
	UPDATE=1 $(DOCS)

docs-check:
	$(DOCS)

# What it finds is kept in testdata/fuzz, and tried by every make test from then on.
# FUZZBUILD= uses the build of the tests, and fuzzes without the guidance of coverage.
FUZZBUILD ?= -fuzz .

fuzz: ## Fuzz each target for FUZZTIME (30s)
	@dir=$$(mktemp -d); trap 'rm -rf '"$$dir" EXIT; cache=$$($(GO) env GOCACHE)/fuzz; \
	for pkg in $$(grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n 1 dirname | sort -u); do \
	  (cd $$pkg && $(TEST) -c $(FUZZBUILD) -o "$$dir/fuzz.test" .) || exit 1; \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$pkg/*_test.go); do \
	    echo "fuzz $$pkg $$target $(FUZZTIME)"; \
	    (cd $$pkg && "$$dir/fuzz.test" -test.run '^$$' -test.fuzz "^$$target$$" -test.fuzztime $(FUZZTIME) \
	      -test.fuzzminimizetime 10x -test.fuzzcachedir "$$cache/$$pkg") || exit 1; \
	  done; \
	done

# A module of its own: what the contenders need is none of the product's.
bench: ## Measure linkcancel beside its peers, 40 min; BENCH=-quick only tries it
	cd internal/bench && $(GO) vet ./... && $(TEST) -count=1 ./... && $(GO) run . $(BENCH)

bench-micro: ## Run the Go benchmarks of single functions
	$(TEST) -run '^$$' -bench . -benchmem -count $${COUNT:-5} ./...

cover: ## Show the test coverage by function
	$(TEST) -count=1 -coverprofile=coverage.out -coverpkg=./... ./...
	$(GO) tool cover -func=coverage.out | tail -n 40

failover: ## Fail Redis over (FAILOVERS of each kind), crash workers (CRASHES), test Redis on a cluster, and sweep for two days
	@sh .ci/tools
	TEST_CLUSTER=1 $(TEST) -count=1 -timeout 20m -run '/cluster$$|TestScriptRedis' ./internal/... ./producer/... ./worker ./metrics ./cmd/linkcancel
	@log=$$(mktemp); trap 'rm -f '"$$log" EXIT; \
	FAILOVERS=$${FAILOVERS:-3} CRASHES=$${CRASHES:-12} $(TEST) -count=1 -timeout 40m -v -parallel 3 \
	  -run 'TestFailovers|TestPartitions|TestCrashRecovery' ./worker ./cmd/linkcancel >"$$log" 2>&1 || { cat "$$log"; exit 1; }; \
	grep -E ' runs, | from the kill ' "$$log"
	WHOLE_DAYS=1 $(TEST) -count=1 -timeout 60m -run TestClockChange ./producer/sweep

# A module of its own: what it needs is none of the product's.
proof: ## Prove dashboard, rules and deployment files, on a real Prometheus where there is one
	@sh .ci/tools prometheus
	@for tool in prometheus redis-server; do command -v $$tool >/dev/null 2>&1 || \
	  echo "left out: the proof on a real Prometheus (apt-get install $$tool to have it)"; done
	cd deploy/proof && $(GO) vet ./... && $(TEST) -count=1 -timeout 10m ./...

page: ## Test the page in a real Chromium where there is one
	@sh .ci/tools chromium
	@command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || \
	  echo "left out: the page in a browser (apt-get install chromium to have it)"
	cd internal/browser && $(GO) vet ./... && $(TEST) -count=1 -timeout 5m ./...

api: ## Test the HTTP API against its own description, and the examples of docs/api.md
	@sh .ci/tools redis-server curl python3
	cd internal/apitest && $(GO) vet ./... && $(TEST) -count=1 -timeout 5m ./...

page-pictures: ## Draw the pictures of the page into docs
	cd internal/browser && $(GO) test -tags pictures -count=1 -run TestPictures .

screenshots: ## Draw the dashboard, with the data of a fleet at work, into docs
	@GO='$(GO)' deploy/screenshots/screenshots.sh

# The suite is a module of its own, too. CHAOS_SEED=0 is a seed by chance, which is printed;
# CHAOS_ROUND runs one round of a seed alone. With CHAOS_PREVIOUS, a commit, half of the processes are
# of that commit until the last fault. CHAOS_REDIS is single, sentinel or cluster.
CHAOS_SECONDS ?= 60
CHAOS_SEED    ?= 0
CHAOS_ROUND   ?= 0
CHAOS_REDIS   ?= single
DRAWS         ?= 200
CHAOS := cd internal/chaos && $(GO) run . -seed $(CHAOS_SEED) -previous '$(CHAOS_PREVIOUS)' -redis $(CHAOS_REDIS)

chaos: ## Try to break it for CHAOS_SECONDS (60): kills, cuts, outages, and all links accounted for
	@sh .ci/tools
	@cd internal/chaos && $(GO) vet ./... && $(TEST) -count=1 ./...
	@$(CHAOS) -seconds $(CHAOS_SECONDS) -round $(CHAOS_ROUND) -v=$(if $(CHAOS_VERBOSE),true,false)

chaos-mutants: ## Break linkcancel in 22 ways, and see whether make chaos finds each
	@sh .ci/tools
	@$(CHAOS) -mutants all

# promtool, for the rules of alerts, is in the package prometheus.
mutants: ## Plant small bugs, one at a time, and see whether the tests find each, 30 min; MUTANTS='-n 8' tries 8
	@sh .ci/tools prometheus
	@$(GO) run ./internal/mutants $(MUTANTS)

chaos-scenarios: ## 50 workers on one Redis; Redis out of memory for 30 s; acknowledgements that fail; locked links
	@sh .ci/tools
	@$(CHAOS) -scenario all

draws: ## DRAWS (200) runs, each behind a gateway that chance draws: its answer, its share, its time
	@$(CHAOS) -draws $(DRAWS)

compose-test: ## Prove docker-compose.yml on a Docker engine, without any registry
	deploy/compose-test.sh

release: ## Build dist/: archives for all platforms with SBOM, licences and checksums
	@GO='$(GO)' VERSION='$(VERSION)' deploy/release.sh

clean: ## Delete what was built
	rm -rf bin dist coverage.out deploy/screenshots/node_modules
