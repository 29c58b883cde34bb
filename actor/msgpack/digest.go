package msgpack

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"github.com/tinylib/msgp/msgp"
)

// Digest returns a 64-bit hash of an operation and its decoded arguments. The order of map
// keys and the encoding of integers (width, or as a float) do not matter, so a retry that
// is encoded differently has the same digest. It is the first 8 bytes of the SHA-256 of a
// canonical encoding.
func Digest(operation string, tree any) int64 {
	buf := make([]byte, 0, 256)
	buf = msgp.AppendString(buf, operation)
	return sum(appendCanonical(buf, tree))
}

// DigestRaw is Digest for a body that cannot be decoded.
func DigestRaw(operation string, body []byte) int64 {
	buf := msgp.AppendString(make([]byte, 0, len(operation)+len(body)+8), operation)
	return sum(append(buf, body...))
}

func sum(b []byte) int64 {
	h := sha256.Sum256(b)
	return int64(binary.BigEndian.Uint64(h[:8]))
}

func appendCanonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return msgp.AppendNil(b)
	case bool:
		return msgp.AppendBool(b, v)
	case int64:
		return msgp.AppendInt64(b, v)
	case uint64:
		return msgp.AppendUint64(b, v)
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(v))
	case string:
		return msgp.AppendString(b, v)
	case []byte:
		return msgp.AppendBytes(b, v)
	case Opaque:
		return append(b, v...)
	case []any:
		b = msgp.AppendArrayHeader(b, uint32(len(v)))
		for _, e := range v {
			b = appendCanonical(b, e)
		}
		return b
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		b = msgp.AppendMapHeader(b, uint32(len(keys)))
		for _, k := range keys {
			b = appendCanonical(msgp.AppendString(b, k), v[k])
		}
		return b
	}
	panic("msgpack: not a value that Decode returns")
}
