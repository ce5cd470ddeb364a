package recreate

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzRecord: a record of the journal is refused or understood, and what is understood
// is read as the same when it is written again.
func FuzzRecord(f *testing.F) {
	for _, r := range []*Record{{Version: journalVersion, Name: "work", Class: "AppVM"}, {Version: journalVersion, Name: "work", Class: "AppVM", Begun: []string{"private"}, Imported: []string{"root"}}} {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("{}"))
	f.Add([]byte(`{"version":1000}`))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		r, err := parseRecord(untrusted)
		if err != nil {
			return
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseRecord(b)
		if err != nil || !reflect.DeepEqual(normal(r), normal(again)) {
			t.Errorf("%+v was written, and %+v read (%v)", r, again, err)
		}
	})
}

// normal makes no difference between no list and an empty one.
func normal(r *Record) Record {
	if r == nil {
		return Record{}
	}
	c := *r
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		if k := v.Field(i); k.Kind() == reflect.Slice && k.Len() == 0 {
			k.SetZero()
		}
	}
	return c
}
