package msgpack

import (
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

var limits = Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}

func TestDecode(t *testing.T) {
	t.Run("types", testDecodeTypes)
	t.Run("floats", testDecodeFloats)
	t.Run("malformed", testDecodeMalformed)
	t.Run("keys_that_are_no_strings", testDecodeOtherKeys)
	t.Run("NUL", testDecodeNUL)
	t.Run("raw", testDecodeRaw)
	t.Run("memory_of_a_hostile_body", testDecodeMemory)
}

func testDecodeTypes(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		want any
	}{
		"nil":               {"\xc0", nil},
		"true":              {"\xc3", true},
		"positive fixint":   {"\x07", int64(7)},
		"negative fixint":   {"\xff", int64(-1)},
		"uint64 in range":   {"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", int64(math.MaxInt64)},
		"uint64 beyond":     {"\xcf\x80\x00\x00\x00\x00\x00\x00\x00", uint64(math.MaxInt64) + 1},
		"int64":             {"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", int64(math.MinInt64)},
		"float32":           {"\xca\x3f\xc0\x00\x00", 1.5},
		"float64":           {"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", 1.5},
		"fixstr":            {"\xa2hi", "hi"},
		"str8":              {"\xd9\x02hi", "hi"},
		"str16":             {"\xda\x00\x02hi", "hi"},
		"bin":               {"\xc4\x02hi", []byte("hi")},
		"fixext":            {"\xd4\x05x", Opaque("\xd4\x05x")},
		"timestamp":         {"\xd6\xff\x00\x00\x00\x01", Opaque("\xd6\xff\x00\x00\x00\x01")},
		"array":             {"\x92\x01\xc0", []any{int64(1), nil}},
		"map":               {"\x81\xa1a\x01", map[string]any{"a": int64(1)}},
		"map16":             {"\xde\x00\x01\xa1a\x01", map[string]any{"a": int64(1)}},
		"last of two keys":  {"\x82\xa1a\x01\xa1a\x02", map[string]any{"a": int64(2)}},
		"nested containers": {"\x91\x81\xa1a\x90", []any{map[string]any{"a": []any{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode([]byte(tc.body), limits)
			if err != nil || !reflect.DeepEqual(got.Tree, tc.want) {
				t.Fatalf("Decode = %#v, %v; want %#v", got.Tree, err, tc.want)
			}
		})
	}
}

func testDecodeFloats(t *testing.T) {
	for f, want := range map[float64]any{
		5:                           int64(5),
		-5:                          int64(-5),
		0:                           int64(0),
		math.Copysign(0, -1):        int64(0),
		1 << 40:                     int64(1) << 40,
		1 << 53:                     int64(1) << 53,
		-1 << 53:                    int64(-1) << 53,
		1<<53 + 2:                   float64(1<<53 + 2),
		-1<<53 - 2:                  float64(-1<<53 - 2),
		1 << 63:                     float64(1 << 63),
		10.38:                       10.38,
		5 + 1.0/(1<<50):             5 + 1.0/(1<<50),
		math.MaxFloat64:             math.MaxFloat64,
		math.Inf(1):                 math.Inf(1),
		math.Inf(-1):                math.Inf(-1),
		math.SmallestNonzeroFloat64: math.SmallestNonzeroFloat64,
	} {
		if msg, err := Decode(msgp.AppendFloat64(nil, f), limits); err != nil || msg.Tree != want {
			t.Errorf("float64 %v: %#v, %v; want %#v", f, msg.Tree, err, want)
		}
		if float64(float32(f)) != f {
			continue
		}
		if msg, err := Decode(msgp.AppendFloat32(nil, float32(f)), limits); err != nil || msg.Tree != want {
			t.Errorf("float32 %v: %#v, %v; want %#v", f, msg.Tree, err, want)
		}
	}
	for name, nan := range map[string][]byte{
		"float32": msgp.AppendFloat32(nil, float32(math.NaN())),
		"float64": msgp.AppendFloat64(nil, math.NaN()),
	} {
		msg, err := Decode(nan, limits)
		if f, ok := msg.Tree.(float64); err != nil || !ok || !math.IsNaN(f) {
			t.Errorf("%s NaN: %#v, %v", name, msg.Tree, err)
		}
	}
}

func testDecodeMalformed(t *testing.T) {
	for name, body := range map[string]string{
		"empty":                     "",
		"truncated map":             "\x82\xa1a\x01",
		"truncated string":          "\xa5hi",
		"truncated integer":         "\xcd\x01",
		"truncated bin":             "\xc4\x05hi",
		"truncated ext":             "\xd8\x05x",
		"trailing bytes":            "\x80\x80",
		"reserved byte":             "\xc1",
		"reserved byte inside":      "\x81\xa1a\xc1",
		"not UTF-8":                 "\xa2\xff\xfe",
		"key that is not UTF-8":     "\x81\xa1\xff\x01",
		"array32 of 4 billion":      "\xdd\xff\xff\xff\xff",
		"map32 of 4 billion":        "\xdf\xff\xff\xff\xff",
		"str32 of 4 billion":        "\xdb\xff\xff\xff\xff",
		"bin32 of 4 billion":        "\xc6\xff\xff\xff\xff",
		"ext32 of 4 billion":        "\xc9\xff\xff\xff\xff\x05",
		"nested too deep":           strings.Repeat("\x91", 33) + "\xc0",
		"over the size limit":       "\xc6\x00\x10\x00\x00" + strings.Repeat("x", 1<<20),
		"over the number of values": "\xdd\x00\x01\x86\xa0" + strings.Repeat("\xc0", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(body), limits)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Decode = %v, want an *Error", err)
			}
		})
	}
}

func testDecodeOtherKeys(t *testing.T) {
	for body, want := range map[string]any{
		"\x82\x01\x02\xa1a\x03":      Opaque("\x82\x01\x02\xa1a\x03"),
		"\x81\xa1a\x81\xc4\x01b\xc0": map[string]any{"a": Opaque("\x81\xc4\x01b\xc0")},
	} {
		if got, err := Decode([]byte(body), limits); err != nil || !reflect.DeepEqual(got.Tree, want) {
			t.Errorf("%q: %#v, %v", body, got.Tree, err)
		}
	}
}

func testDecodeNUL(t *testing.T) {
	for body, want := range map[string]bool{"\x81\xa1a\xa2b\x00": true, "\x81\xa2a\x00\xc0": true, "\x81\xa1a\x00": false} {
		if got, err := Decode([]byte(body), limits); err != nil || got.NUL != want {
			t.Errorf("%q: %v, %v", body, got.NUL, err)
		}
	}
}

func testDecodeRaw(t *testing.T) {
	msg, err := Decode([]byte("\x82\xa3ops\x91\xcd\x00\x01\xa1x\xc0"), limits)
	if err != nil || string(msg.Raw["ops"]) != "\x91\xcd\x00\x01" || string(msg.Raw["x"]) != "\xc0" {
		t.Fatalf("Raw = %q, %v", msg.Raw, err)
	}
}

func TestDigest(t *testing.T) {
	decode := func(s string) any {
		msg, err := Decode([]byte(s), limits)
		if err != nil {
			t.Fatal(err)
		}
		return msg.Tree
	}
	const args = "\x82\xa1a\x01\xa1b\xa1x"
	digest := Digest("patch", decode(args))
	t.Run("same_arguments_encoded_differently", func(t *testing.T) {
		for _, same := range []string{
			"\xde\x00\x02\xa1b\xd9\x01x\xa1a\xcd\x00\x01",
			"\x82\xa1a\xca\x3f\x80\x00\x00\xa1b\xa1x",
			"\x82\xa1a\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xa1b\xa1x",
		} {
			if Digest("patch", decode(same)) != digest {
				t.Errorf("%q has another digest", same)
			}
		}
	})
	t.Run("other_arguments", func(t *testing.T) {
		for _, other := range []string{"\x82\xa1a\x02\xa1b\xa1x", "\x82\xa1a\x01\xa1b\xc4\x01x", "\x81\xa1a\x01", "\x82\xa1a\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xa1b\xa1x"} {
			if Digest("patch", decode(other)) == digest {
				t.Errorf("%q has the same digest", other)
			}
		}
	})
	t.Run("other_operation", func(t *testing.T) {
		if Digest("create", decode(args)) == digest {
			t.Error("the same digest")
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "\xc1", "\x80", "\xdd\xff\xff\xff\xff", "\x82\xa1a\x01\xa1b\xa1x", strings.Repeat("\x91", 40), "\xd6\xff\x00\x00\x00\x01", "\xc7\x00\x05",
		"\xca\x3f\x80\x00\x00", "\xcb\x43\x40\x00\x00\x00\x00\x00\x00", "\xcb\x43\x40\x00\x00\x00\x00\x00\x01", "\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01"} {
		f.Add([]byte(s))
	}
	small := Limits{Bytes: 1 << 16, Depth: 16, Values: 4096}
	f.Fuzz(func(t *testing.T, body []byte) {
		msg, err := Decode(body, small)
		if err != nil {
			if msg.Tree != nil || msg.Raw != nil {
				t.Fatal("an error and a message")
			}
			return
		}
		// The canonical encoding of a decoded value decodes to the same value.
		canonical := appendCanonical(nil, msg.Tree)
		again, err := Decode(canonical, Limits{Bytes: math.MaxInt, Depth: 16, Values: 4096})
		if err != nil {
			t.Fatalf("canonical form does not decode: %v", err)
		}
		if string(appendCanonical(nil, again.Tree)) != string(canonical) {
			t.Fatal("canonical form is not stable")
		}
	})
}

func testDecodeMemory(t *testing.T) {
	// The most expensive body within the limits: as many maps of one element as
	// there may be values.
	body := msgp.AppendArrayHeader(nil, 33_000)
	for range 33_000 {
		body = append(body, "\x81\xa0\xc0"...)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decode(body, limits); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Fatalf("a body of %d bytes cost %d MiB", len(body), used>>20)
	}
}

func BenchmarkDecode(b *testing.B) {
	body := msgp.AppendMapHeader(nil, 2)
	body = msgp.AppendInt(msgp.AppendString(body, "user_id"), 12345)
	body = msgp.AppendArrayHeader(msgp.AppendString(body, "ops"), 1)
	body = msgp.AppendMapStrStr(body, map[string]string{"op": "replace", "path": "/name", "value": "Ada Lovelace"})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(body, limits); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	tree := map[string]any{"user_id": int64(12345), "ops": []any{map[string]any{"op": "replace", "path": "/name", "value": "Ada"}}}
	b.ReportAllocs()
	for b.Loop() {
		Digest("patch", tree)
	}
}
