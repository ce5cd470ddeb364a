package e2e

import (
	"encoding/json"
	"strings"
)

// document reads the one JSON document on standard output.
func document[T any](r *result) T {
	r.t.Helper()
	var doc T
	d := json.NewDecoder(strings.NewReader(r.stdout))
	if err := d.Decode(&doc); err != nil {
		r.t.Fatalf("%s\nwas to print a JSON document: %v", r, err)
	}
	if d.More() {
		r.t.Fatalf("%s\nprinted more than one JSON document", r)
	}
	return doc
}

// The JSON documents, as far as tests read them.
type (
	backupDoc struct {
		Session *struct {
			ID, Time string
			Seq      uint64
		}
		Volumes []backupVolume
		Failed  []struct{ Name, Message string }
		Sent    int64   `json:"sent_bytes"`
		KDF     float64 `json:"kdf_seconds"`
		Error   *errorDoc
	}
	backupVolume struct {
		Name, Mode   string
		Size         int64
		ReadBytes    int64  `json:"read_bytes"`
		ChangedBytes int64  `json:"changed_bytes"`
		NewChunks    uint64 `json:"new_chunks"`
		StoredBytes  int64  `json:"stored_bytes"`
	}
	listDoc struct {
		Archive struct {
			ID, Branch, Updated string
			Generation          uint64
			ChunkSize           int64 `json:"chunk_size"`
			StoredBytes         int64 `json:"stored_bytes"`
		}
		Sessions []struct {
			ID, Time string
			Seq      uint64
			Tags     []struct{ Name, Text string }
			Volumes  []struct {
				Name         string
				Size, Stored int64
			}
		}
		Error *errorDoc
	}
	restoreDoc struct {
		Volumes []struct {
			Name, Session string
			Fetched       int64 `json:"fetched_bytes"`
			Written       int64 `json:"written_bytes"`
		}
		Damage []damageRange
		Error  *errorDoc
	}
	damageDoc struct {
		Damage    []damageRange
		ReadBytes int64 `json:"read_bytes"`
		Error     *errorDoc
	}
	damageRange struct {
		Volume         string
		Session        uint64
		Offset, Length int64
		Object, Reason string
	}
	errorDoc struct {
		Code          int
		Message, Hint string
	}
)

// backup runs a backup that has to succeed.
func (w *world) backup(args ...string) backupDoc {
	w.t.Helper()
	return document[backupDoc](w.ok(append([]string{"backup", "--json"}, args...)...))
}

// list is what the archive holds.
func (w *world) list() listDoc {
	w.t.Helper()
	return document[listDoc](w.ok("list", "--json"))
}
