package e2e

import (
	"testing"
)

// keyHosts are two hosts of an archive with one session: the first saw it, the
// second changed the key since, which made the root of generation 3. It returns
// the key that counts now.
func keyHosts(t *testing.T) (a, b *world, second string) {
	t.Helper()
	a = archive(t)
	a.backup("file:" + a.image("v", "random:1M:1"))
	b = a.other("b")
	second = a.keyFile("second", 2)
	b.ok("key", "change", "--new-keyfile", second)
	return a, b, second
}

// Where the newest root is lost in both of its places, the host that saw it last
// puts its own copy back, with the keys that it had.
func TestRootPutBackHasTheKeysThatItHad(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"damaged": func(w *world) { w.spoilRoots(3) },
		"missing": func(w *world) { w.backTo(2) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, second := keyHosts(t)
			spoil(b)
			b.exits(14, "list", "--keyfile", second).oneLine().says("generation 2, and 3 was seen")
			b.ok("check", "--repair", "--keyfile", second, "--allow-rollback")
			_ = a
		})
	}
}
