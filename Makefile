# An index of the commands that this repository is worked on with. `make help`
# lists them. Each is an ordinary Go command that can be typed by hand: `work`
# means every package of every module in go.work.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

MODULES := $(shell sed -n '/^use (/,/^)/s/^\t//p' go.work)
FUZZTIME ?= 4s
SOAK ?= 30s
SEEDS ?= 5000
N ?= all
KILLS ?= 1000
POWERS ?= 1000
ROTS ?= 5000
TESTFLAGS ?= -timeout 15m

# Packages whose tests are about processes, files and servers, or whose goroutines
# are those of the packages below them: the race detector makes them many times
# slower, and finds what it finds in the others. And those that have none, by rule.
NORACE := /(internal/(core/(commit|outbox|projector)|tidy)|test/sim|bench(/.*)?|cmd/.*|mutants|examples/hello|examples/library(/library|/notice|/readmodel)?|test/sqltarget|pgxtarget|pgtest|crashtest(/faultfs)?)$$

# The packages whose tests take longest. They are named before all others, so that
# these run beside them and not before them; go test names each package once. The
# tests of PostgreSQL wait most of the time, so one package more than there are
# processors is tested at a time.
LONGEST := ./store/postgres ./store/pebble
BESIDE := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

## test: everything that must hold before a change is accepted, in the order
##       of what fails soonest: seconds first, then what needs the heavy tools,
##       then what runs long
.PHONY: test
test: subjects format-check vet test-go scribble modules outside proto lint test-race bench endure mutants
test: N = 8

## check: the part of test that does not run the code
.PHONY: check
check: subjects format-check vet modules proto lint

## test-go: all tests and examples, without the race detector (so with the
##       tests that count allocations)
.PHONY: test-go
test-go:
	go test $(TESTFLAGS) -p $(BESIDE) $(LONGEST) work

## test-race: the tests again, in random order, under the race detector, but for
##            packages without goroutines of their own (NORACE) and for what does
##            one thing at a time (-short)
.PHONY: test-race
test-race:
	go test $(TESTFLAGS) -race -short -shuffle=on $$(go list work | grep -vE '$(NORACE)')

## scribble: tests of the engine while it spoils whatever its users could change, see
##           internal/scribble
.PHONY: scribble
scribble:
	go test $(TESTFLAGS) -tags scribble -short . ./test/linearize

## bench: every benchmark once, to see that it runs; figures are made by hand,
##        with nothing beside them: go test -run '^$' -bench . ./store
.PHONY: bench
# Behind -args, go test does not see that these are benchmarks. If it does, it
# runs one package at a time.
bench:
	go test $(TESTFLAGS) -run '^$$' $$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n 1 dirname | sort -u) \
		-args -test.bench=. -test.benchtime=1x

## sim: the simulation with more seeds, e.g. make sim SEEDS=20000; tells how many
##      were run, and how many a second
.PHONY: sim
sim:
	go test ./test/sim -run TestSimulationKeepsEveryPromise -timeout 60m -seeds=$(SEEDS) -v

## mutants: tests must fail when a patch of test/mutants breaks their promise; all
##          patches, the next N of them, another few every day, or those named:
##          make mutants N=5, make mutants MUTANT=checksum-not-compared
.PHONY: mutants
mutants:
	go run ./test/mutants $(if $(filter-out all,$(N)),-n $(N)) $(MUTANT)

## crash: the crash kit on the embedded stores, every operation and many cycles;
##        as root where file systems may be mounted. Takes an hour or more
.PHONY: crash
crash:
	for m in store/bbolt store/pebble; do (cd $$m && go test . -run 'Crash|Caught' -timeout 4h \
		-crash.kills=$(KILLS) -crash.powers=$(POWERS) -crash.rots=$(ROTS) -crash.stride=1); done

## soak: 100,000 entities come and go for SOAK (30s), e.g. make soak SOAK=1h;
##       memory and goroutines must come back
.PHONY: soak
soak:
	go test $(TESTFLAGS) ./test/linearize -run TestMemoryAndGoroutinesComeBack -count=1 -v -soak $(SOAK)

## fuzz: every fuzz target for FUZZTIME (4s), e.g. make fuzz FUZZTIME=10m
.PHONY: fuzz
fuzz:
	.ci/fuzz $(FUZZTIME)

## endure: fuzz and soak at the same time, since each has a time of its own; what
##         soak has said is shown at the end
.PHONY: endure
endure:
	said=$$(mktemp); trap 'rm -f "$$said"' EXIT; \
	$(MAKE) --no-print-directory soak >"$$said" 2>&1 & soak=$$!; status=0; \
	$(MAKE) --no-print-directory fuzz || status=$$?; \
	wait "$$soak" || status=$$?; cat "$$said"; exit "$$status"

## cover: how much of the code its tests reach; details in cover.out
.PHONY: cover
cover:
	go test $(TESTFLAGS) -coverpkg work -coverprofile cover.out work
	go tool cover -func cover.out | tail -n 1

## subjects: commits have subjects like "package: what it does now", of at most 60
##           characters
.PHONY: subjects
subjects:
	.ci/subjects

## vet: go vet
.PHONY: vet
vet:
	go vet work

## lint: golangci-lint, with the rules and their reasons in .golangci.yml
.PHONY: lint
lint: bin/golangci-lint
	bin/golangci-lint run $(addsuffix /...,$(MODULES))
	cd tools && GOWORK=off ../bin/golangci-lint run ./modules/...

## modules: every go.mod and go.sum is what go mod tidy would write, and the tests
##          of the program that looks after modules; make tidy writes them
.PHONY: modules
modules:
	cd tools && GOWORK=off go vet ./modules && GOWORK=off go test ./modules && GOWORK=off go run ./modules tidy

## tidy: write the go.mod and go.sum files
.PHONY: tidy
tidy:
	cd tools && GOWORK=off go run ./modules tidy -w

## outside: programs outside of the repository get, build and run each module of the
##          working tree with nothing but the go command
.PHONY: outside
outside:
	cd tools && GOWORK=off go run ./modules outside

## proto: the protobuf files follow the rules, break nobody, and the code
##       generated from them is up to date
.PHONY: proto
proto: bin/buf
	bin/buf lint
	.ci/breaking
	.ci/generated

## generate: write the code generated from the protobuf files
.PHONY: generate
generate: bin/buf
	GOWORK=off bin/buf generate

## format: gofumpt and buf format, in place
.PHONY: format
format: bin/gofumpt bin/buf
	bin/gofumpt -w .
	bin/buf format -w

## format-check: gofumpt would change nothing
.PHONY: format-check
format-check: bin/gofumpt
	bin/gofumpt -d . && test -z "$$(bin/gofumpt -l .)"

## tools: the programs above, in the versions of tools/go.mod, into bin/
.PHONY: tools
tools: bin/gofumpt bin/buf bin/golangci-lint

bin/%: tools/go.mod tools/go.sum
	cd tools && GOWORK=off go build -buildvcs=false -trimpath -ldflags '-s -w' -o ../$@ "$$(GOWORK=off go list tool | grep '/$*$$')"

## clean: remove what make has made
.PHONY: clean
clean:
	rm -rf bin cover.out

## help: this list
.PHONY: help
help:
	@awk -F ': ' '/^## [a-z-]+: / { printf "%-14s%s\n", substr($$1, 4), $$2; next } /^##  / { sub(/^## +/, ""); printf "%14s%s\n", "", $$0 }' Makefile
