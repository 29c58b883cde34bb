//go:build npm

package clients

import (
	"encoding/json"
	"testing"
)

// maxExact is the largest integer up to which JavaScript has all.
const maxExact = 1<<53 - 1

// TestTypeScript needs what deploy/clients/check.sh compiles, which runs this test.
func TestTypeScript(t *testing.T) {
	at := newBrokers(t)
	drive := drive(t, "node", "../../../bin/clients/typescript/conformance.js", at.asText(t))
	conform(t, "typescript", func(t *testing.T, s *step) dict {
		s.Arguments = withBigints(s.Arguments).(dict)
		return drive(t, s)
	})
}

// withBigints replaces integers that JavaScript's numbers do not have.
func withBigints(v any) any {
	switch v := v.(type) {
	case dict:
		for key, e := range v {
			v[key] = withBigints(e)
		}
	case []any:
		for i, e := range v {
			v[i] = withBigints(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil && (n > maxExact || n < -maxExact) {
			return dict{"$int": v.String()}
		}
	}
	return v
}
