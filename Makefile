# make build   both programs, static, into bin/
# make demo    shows them at work on a real file system image
# make test    every check and every test
# make rpm     the RPMs for dom0 and for qubes, into dist/
# make deb     the Debian package for qubes, into dist/
# make install-dom0, make install-vm
#              puts what was built where packages have it, below DESTDIR
# make bench   speed and memory beside what this machine could do at best, and
#              what differences cost; BENCH="-speed=false" leaves a part out,
#              BENCH=-h shows what can be said

GO      ?= go
VERSION := $(shell cat version)

# Nothing of the place and of git gets into the programs.
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

# All tests together, with the race detector, on two cores.
TEST_TIMEOUT := 75m

.PHONY: build build-dom0 build-vm demo test check race bench tools rpm deb install-dom0 install-vm clean

build: build-dom0
	@echo "built bin/pinion and bin/pinion-store, version $(VERSION)"

# dom0 needs the helper, too, for archives on its own disks.
build-dom0: build-vm
	@$(GOBUILD) -o bin/pinion ./dom0/cmd/pinion

build-vm:
	@$(GOBUILD) -o bin/pinion-store ./destvm/cmd/pinion-store

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

# The race detector needs a C compiler; .ci/tools says so where there is none. The tests
# that take longest, those of e2e/, begin first: in the reverse order of their names.
race:
	@if command -v gcc >/dev/null || command -v clang >/dev/null; then race=-race; else race=; fi; \
	echo "$(GO) test $$race -timeout $(TEST_TIMEOUT) ./..."; \
	$(GO) test $$race -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | sort -r)

bench: build
	@$(GO) run ./dom0/internal/bench -bin bin -files "$$($(GO) env GOROOT)/src,/usr/share,/usr/lib" $(BENCH)

rpm:
	@rpm/build rpm

deb:
	@rpm/build deb

# Configuration that is there already belongs to the administrator.
define config
	mkdir -p $(DESTDIR)$(dir $(2))
	test -e $(DESTDIR)$(2) || install -m $(3) $(1) $(DESTDIR)$(2)
endef

install-dom0:
	mkdir -p $(DESTDIR)/usr/bin
	install -m 0755 bin/pinion bin/pinion-store $(DESTDIR)/usr/bin/
	$(call config,qrexec-policy/80-pinion.policy,/etc/qubes/policy.d/80-pinion.policy,0664)
	$(call config,dom0/pinion.conf.example,/etc/pinion/pinion.conf,0644)
	install -d -m 0700 $(DESTDIR)/var/lib/pinion $(DESTDIR)/var/cache/pinion

install-vm:
	mkdir -p $(DESTDIR)/usr/bin $(DESTDIR)/etc/qubes-rpc
	install -m 0755 bin/pinion-store $(DESTDIR)/usr/bin/
	install -m 0755 destvm/qubes-rpc/pinion.Store $(DESTDIR)/etc/qubes-rpc/
	$(call config,destvm/rpc-config/pinion.Store,/etc/qubes/rpc-config/pinion.Store,0644)
	$(call config,destvm/store.conf.example,/etc/pinion/store.conf,0644)

clean:
	rm -rf bin dist
