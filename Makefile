# cellgate: every target installs what it needs itself. `make help` lists them.

GO          ?= go
CACHE       := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cellgate
TOOLS       := $(CACHE)/bin
LINT_VERSION := v2.15.0
LINT        := $(TOOLS)/golangci-lint-$(LINT_VERSION)

VERSION     ?= 0.1.0
COMMIT      := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
BUILT       := $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
LDFLAGS     := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.built=$(BUILT)

BIN         := $(CURDIR)/bin/cellgate
export CELLGATE_BIN := $(BIN)

# How long and how often. `make soak` sets the full figures, `make check` runs the same code short.
FUZZTIME     ?= 10s
WIRE_FUZZTIME ?= 30s
CRASH_ROUNDS ?= 20
START_BYTES  ?= 67108864
DISK_ROUNDS  ?= 3
POWER_STATES ?= 1000
MODEL_STATES ?= 1000000
BENCH_RUN    ?= .
FAULTS       ?= 20
SYNC_FAULTS  ?= 4
SYNC_RATE    ?= 5
SYNC_BACKLOG ?= 200000
OUTAGE       ?= 60s
FLEET        ?= 10
GATEWAYS     ?= 1
DATA         ?= ./data

.DEFAULT_GOAL := help
.PHONY: help build sbom image deploy-check contract upgrade run test test-race test-real bench bench-micro cells crash faults power damage model fuzz hostile lint vet check soak clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/cellgate
	@echo "==> build $(BIN)"
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/cellgate

run: build ## the whole job on embedded parts, with a simulated fleet; Ctrl-C stops
	@$(BIN) dev --data $(DATA) --vehicles $(FLEET) --gateways $(GATEWAYS)

test: build ## all tests that need nothing but Go
	@echo "==> go test"
	$(GO) test -timeout 9m ./...

test-race: build ## the same with the race detector
	@echo "==> go test -race"
	$(GO) test -race -timeout 20m ./...

test-real: build tools-real ## the end-to-end scenarios on Apache Kafka 3.9 and 4.x, Redis, and foreign clients; faults
	@echo "==> go test -tags real"
	FAULTS=$(FAULTS) SYNC_FAULTS=$(SYNC_FAULTS) SYNC_RATE=$(SYNC_RATE) SYNC_BACKLOG=$(SYNC_BACKLOG) OUTAGE=$(OUTAGE) $(GO) test -tags real -count=1 -timeout 45m -v ./test/real/... | $(GO) run ./test/progress
	@echo "==> several gateways under faults"
	$(GO) test -tags real -count=1 -timeout 20m -v ./test/cells | $(GO) run ./test/progress
	$(GO) test -count=1 ./rules/sink/redis

# BENCH_RUN chooses among the tests, BENCH_ARGS takes flags such as -rounds 2 -storm 5000 -json FILE -profiles DIR.
bench: build tools-bench ## the whole gateway against Mosquitto, then the packages' benchmarks
	@echo "==> bench: whole process, alternating with Mosquitto"
	$(GO) test -tags bench -count=1 -timeout 60m -v -run '$(BENCH_RUN)' ./test/bench -args $(BENCH_ARGS)
	@echo "==> bench: one gateway alone, and one of several, in turns"
	$(GO) test -tags bench -count=1 -timeout 60m -v -run '$(BENCH_RUN)' ./test/cells
	@$(MAKE) --no-print-directory bench-micro

bench-micro: ## the packages' benchmarks
	@echo "==> bench: packages"
	$(GO) test -run '^$$' -bench . -benchmem -benchtime 200ms -timeout 30m ./broker/... ./rules/... ./auth/... ./sync/...

crash: build ## kill -9 and full disks under load against an outside ledger, and the first PUBACK after a kill
	@echo "==> crash: $(CRASH_ROUNDS) kills, a journal of $(START_BYTES) bytes, $(DISK_ROUNDS) full disks"
	CRASH_ROUNDS=$(CRASH_ROUNDS) START_BYTES=$(START_BYTES) DISK_ROUNDS=$(DISK_ROUNDS) \
		$(GO) test -count=1 -timeout 12h -v ./test/crash | $(GO) run ./test/progress

faults: build tools-real ## FAULTS faults of three brokers and Redis, SYNC_FAULTS on the way to the centre at SYNC_RATE messages of each of 20 vehicles, SYNC_BACKLOG records for it, an OUTAGE of Kafka, failovers of Redis
	@echo "==> faults: $(FAULTS), on the way to the centre $(SYNC_FAULTS), a backlog of $(SYNC_BACKLOG), and Kafka away for $(OUTAGE)"
	FAULTS=$(FAULTS) SYNC_FAULTS=$(SYNC_FAULTS) SYNC_RATE=$(SYNC_RATE) SYNC_BACKLOG=$(SYNC_BACKLOG) OUTAGE=$(OUTAGE) $(GO) test -tags real -count=1 -timeout 12h -v \
		-run 'TestFaults|TestSyncFaults|TestSyncBacklog|TestOutage|TestRedisFailover' \
		./test/real | $(GO) run ./test/progress

# What befalls the cells of `make cells` besides is in test/cells: 50 kills, 20 stops, 20 failovers of Redis, 60 cuts of links.
CELLS_PERCENT ?= 100
CELLS_AWAY    ?= 600
CELLS_KILLS   ?= 30

cells: build tools-real ## several gateways under faults, at full length: CELLS_PERCENT of the storm's figures, Redis away for CELLS_AWAY seconds, CELLS_KILLS kills
	@echo "==> cells"
	CELLS=full CELLS_PERCENT=$(CELLS_PERCENT) CELLS_AWAY=$(CELLS_AWAY) CELLS_KILLS=$(CELLS_KILLS) $(GO) test -tags real -count=1 -timeout 12h -v \
		./test/cells | $(GO) run ./test/progress

IMAGE_TOOL   ?= buildah
IMAGE        ?= cellgate:0.1.0

sbom: build ## the bill of materials of bin/cellgate, as bin/cellgate.cdx.json (CycloneDX)
	@test/real/install.sh node:nodejs npm:npm
	@test/deploy/sbom/make.sh $(VERSION) $(BIN).cdx.json

image: build sbom ## the container image, with IMAGE_TOOL (buildah, podman, docker) as IMAGE
	@echo "==> image $(IMAGE)"
	@dir=$$(mktemp -d) && trap 'rm -rf $$dir' EXIT && mkdir $$dir/data && cp $(BIN) $(BIN).cdx.json $$dir/ && \
	  $(IMAGE_TOOL) build -q -t $(IMAGE) -f deploy/container/Containerfile $$dir

deploy-check: build sbom ## what is in deploy/, held against the tools that read it
	@test/real/install.sh promtool:prometheus systemd-analyze:systemd buildah:buildah
	@echo "==> deploy"
	@promtool check rules deploy/prometheus/alerts.yaml && promtool test rules deploy/prometheus/alerts_test.yaml
	@cd test/deploy && $(GO) test -count=1 ./...

contract: build ## every answer of the HTTP API, held against the OpenAPI document
	@echo "==> contract"
	@cd test/contract && $(GO) test -count=1 ./...

# UPGRADE_FROM is the build that `make upgrade` upgrades from and goes back to: the last release, or what stands for it.
UPGRADE_FROM ?= bb9f1a3673e2ec5f7593664e6e74c1eed4d5fc1c

upgrade: build ## the build UPGRADE_FROM and this one by turns on one data_dir, killed midway
	@echo "==> upgrade from $(UPGRADE_FROM) and back"
	UPGRADE_FROM=$(UPGRADE_FROM) $(GO) test -count=1 -timeout 10m -v ./test/upgrade

power: ## simulated power loss in the journal, and in decision logs and cursors, POWER_STATES crash states each
	@echo "==> power loss: $(POWER_STATES) states"
	POWER_STATES=$(POWER_STATES) $(GO) test -count=1 -timeout 12h -run 'Power|Crash' ./broker/journal
	POWER_STATES=$(POWER_STATES) $(GO) test -count=1 -timeout 12h -run Power ./rules/sink

damage: ## a bit flipped in every seventh byte of a state file, and long random runs; the tests take a sample
	@echo "==> damage to the state file"
	CELLGATE_STATE_FLIPS=all $(GO) test -count=1 -timeout 3h -v -run 'BitFlips|EveryCommit|Garbage' ./broker/shared/statefile

model: ## histories of several gateways, MODEL_STATES states for each case; the tests take fewer
	@echo "==> model: $(MODEL_STATES) states a case"
	MODEL_STATES=$(MODEL_STATES) $(GO) test -count=1 -timeout 12h -v -run PromisesHold ./test/model | $(GO) run ./test/progress

fuzz: ## every fuzz target for FUZZTIME each, those of the frame scanner for WIRE_FUZZTIME
	@$(GO) run ./test/fuzz -time $(FUZZTIME) -wire $(WIRE_FUZZTIME)

lint: $(LINT) ## golangci-lint at the pinned version
	@echo "==> lint"
	$(LINT) run ./...

vet:
	@echo "==> go vet"
	$(GO) vet -tags 'real bench soak' ./...

check: lint vet test-race fuzz crash upgrade power deploy-check contract test-real ## what CI runs
	@echo "==> check: all passed"

hostile: build ## every attack at full length (HOSTILE_LASTS=2m shortens those of single causes), with the figures of honest clients
	@echo "==> hostile clients"
	HOSTILE=full $(GO) test -count=1 -run TestHostileClients ./broker
	HOSTILE=full HOSTILE_LASTS=$(HOSTILE_LASTS) $(GO) test -count=1 -timeout 6h -v -parallel 1 ./test/hostile | $(GO) run ./test/progress

soak: ## the full figures: hours
	@$(MAKE) --no-print-directory fuzz FUZZTIME=10m WIRE_FUZZTIME=1h
	@$(MAKE) --no-print-directory hostile
	@$(MAKE) --no-print-directory power POWER_STATES=10000
	@$(MAKE) --no-print-directory damage
	@$(MAKE) --no-print-directory model MODEL_STATES=20000000
	@$(MAKE) --no-print-directory crash CRASH_ROUNDS=1000 START_BYTES=1073741824 DISK_ROUNDS=50
	@$(MAKE) --no-print-directory cells
	@$(MAKE) --no-print-directory faults FAULTS=200 SYNC_FAULTS=50 SYNC_RATE=70 SYNC_BACKLOG=5000000 OUTAGE=10m

clean: ## remove what was built, and the data of `make run`
	rm -rf bin $(DATA)

$(LINT):
	@echo "==> install golangci-lint $(LINT_VERSION)"
	@mkdir -p $(TOOLS)
	@GOBIN=$(TOOLS)/install $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv $(TOOLS)/install/golangci-lint $@

.PHONY: tools-real tools-bench
tools-real:
	@test/real/install.sh java:openjdk-17-jre-headless mvn:maven redis-server:redis-server kcat:kcat mosquitto_pub:mosquitto-clients redis-cli:redis-tools \
	  python3:python3 python3.venv:python3-venv python3.ensurepip:python3-venv node:nodejs npm:npm chromium:chromium prometheus:prometheus openssl:openssl
	@test/real/clients/install.sh $(CACHE)/clients
	@test/real/console/install.sh $(CACHE)/console

tools-bench:
	@test/real/install.sh mosquitto:mosquitto java:openjdk-17-jre-headless mvn:maven redis-server:redis-server
