# make build   both programs, static, into bin/
# make demo    shows them at work on a real file system image
# make test    every check and every test
# make bench   speed and memory beside what this machine could do at best, and
#              what differences cost; BENCH="-speed=false" leaves a part out,
#              BENCH=-h shows what can be said

GO      ?= go
VERSION := $(shell cat version)

GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# All tests together, with the race detector, on two cores.
TEST_TIMEOUT := 50m

.PHONY: build demo test check race bench tools clean

build:
	@$(GOBUILD) -o bin/pinion ./dom0/cmd/pinion
	@$(GOBUILD) -o bin/pinion-store ./destvm/cmd/pinion-store
	@echo "built bin/pinion and bin/pinion-store, version $(VERSION)"

demo: build
	@$(GO) run ./e2e/demo -bin bin -files "$$($(GO) env GOROOT)/src"

test: tools check race

# What tests need beside Go: installed where that may be done, named elsewhere.
tools:
	@.ci/tools

check:
	$(GO) vet ./...
	@echo "gofmt -l ."; out=$$(gofmt -l .); test -z "$$out" || { echo "$$out"; echo "these files are not as gofmt writes them"; exit 1; }
	@if command -v staticcheck >/dev/null; then echo "staticcheck ./..."; staticcheck ./...; \
	else echo "staticcheck is not installed: left out"; fi

# The race detector needs a C compiler; .ci/tools says so where there is none.
race:
	@if command -v gcc >/dev/null || command -v clang >/dev/null; then race=-race; else race=; fi; \
	echo "$(GO) test $$race -timeout $(TEST_TIMEOUT) ./..."; \
	$(GO) test $$race -timeout $(TEST_TIMEOUT) ./...

bench: build
	@$(GO) run ./dom0/internal/bench -bin bin -files "$$($(GO) env GOROOT)/src,/usr/share,/usr/lib" $(BENCH)

clean:
	rm -rf bin
