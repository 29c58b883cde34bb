package userid

import (
	"bytes"
	"testing"
)

func TestSealer(t *testing.T) {
	body := []byte("create")
	s := Sealer{{1}, {2}}
	sealed := s.Seal(77, body)
	if id, ok := s.Open(sealed, body); !ok || id != 77 {
		t.Errorf("%d, %t", id, ok)
	}
	if id, ok := (Sealer{{3}, {1}}).Open(sealed, body); !ok || id != 77 {
		t.Error("a key that is being replaced does not open it")
	}
	tampered := bytes.Clone(sealed)
	tampered[7]++
	for name, x := range map[string]struct {
		keys         Sealer
		sealed, body []byte
	}{
		"another_id":  {s, tampered, body},
		"other_body":  {s, sealed, []byte("other")},
		"other_key":   {Sealer{{2}}, sealed, body},
		"cut":         {s, sealed[:len(sealed)-1], body},
		"missing":     {s, nil, body},
		"without_key": {nil, sealed, body},
	} {
		if _, ok := x.keys.Open(x.sealed, x.body); ok {
			t.Errorf("%s: it opens", name)
		}
	}
}
