package operate

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestParseRequest(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		ops  string
		want map[string]any // nil: an error
	}{
		"string":         {[]string{"name=Ada=L."}, "", map[string]any{"name": "Ada=L."}},
		"integer":        {[]string{"user_id=1", "github.id=9223372036854775807"}, "", map[string]any{"user_id": int64(1), "github": map[string]any{"id": int64(1<<63 - 1)}}},
		"map":            {[]string{"github.id=1", "github.access_token=x"}, "", map[string]any{"github": map[string]any{"id": int64(1), "access_token": "x"}}},
		"JSON":           {[]string{"a:=[1, 1.5, null, 18446744073709551615]"}, "", map[string]any{"a": []any{int64(1), 1.5, nil, uint64(1<<64 - 1)}}},
		"ops":            {[]string{"user_id=1"}, `[{"op": "test"}]`, map[string]any{"user_id": int64(1), "ops": []any{map[string]any{"op": "test"}}}},
		"no value":       {[]string{"user_id"}, "", nil},
		"no name":        {[]string{"=1"}, "", nil},
		"not an integer": {[]string{"user_id=x"}, "", nil},
		"twice":          {[]string{"a=1", "a=2"}, "", nil},
		"not a map":      {[]string{"a=1", "a.b=2"}, "", nil},
		"not JSON":       {[]string{"a:={"}, "", nil},
		"trailing JSON":  {[]string{"a:=1 2"}, "", nil},
		"ops not JSON":   {nil, "[", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRequest(test.args, test.ops)
			if (err == nil) != (test.want != nil) || test.want != nil && !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestMaskTokens(t *testing.T) {
	var reply any
	err := json.Unmarshal([]byte(`{"result": [{"name": "Ada", "github": {"id": 1, "access_token": "secret"}},
		{"op": "add", "path": "/facebook", "value": {"id": 3, "access_token": "secret"}},
		{"op": "replace", "path": "/github/access_token", "value": "secret"}]}`), &reply)
	if err != nil {
		t.Fatal(err)
	}
	maskTokens(reply)
	text, err := json.Marshal(reply)
	if err != nil || strings.Contains(string(text), "secret") || strings.Count(string(text), mask) != 3 || !strings.Contains(string(text), "Ada") {
		t.Errorf("got %s, %v", text, err)
	}
}
