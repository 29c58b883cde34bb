package msgpack_test

import (
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"github.com/glotpod/ident/actor/msgpack"
)

// Decode turns the body of a request into Go values.
func ExampleDecode() {
	body, err := msgp.AppendIntf(nil, map[string]any{"user_id": 7, "ops": []any{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	limits := msgpack.Limits{Bytes: 1 << 20, Depth: 32, Values: 100_000}
	msg, err := msgpack.Decode(body, limits)
	fmt.Println(msg.Tree, err)
	fmt.Printf("ops as encoded by the caller: % x\n", msg.Raw["ops"])
	// Output:
	// map[ops:[] user_id:7] <nil>
	// ops as encoded by the caller: 90
}

// An error tells where the body is wrong, and never contains parts of it.
func ExampleError() {
	limits := msgpack.Limits{Bytes: 100, Depth: 2, Values: 10}
	for _, body := range []string{
		"\x93\x01\x02\x03\x04",     // an array of three, and one byte more
		"\x91\x91\x91\x01",         // three arrays, nested
		"\xdd\xff\xff\xff\xff\x01", // an array that announces four billion elements
	} {
		_, err := msgpack.Decode([]byte(body), limits)
		var e *msgpack.Error
		if errors.As(err, &e) {
			fmt.Println(e)
		}
	}
	// Output:
	// msgpack: trailing bytes at byte 4
	// msgpack: nested deeper than 2 at byte 3
	// msgpack: container longer than the body at byte 5
}

// The digest of a retry is the digest of the first try, however it is encoded.
func ExampleDigest() {
	first := map[string]any{"user_id": int64(7), "name": "Ada"}
	retry := map[string]any{"name": "Ada", "user_id": int64(7)}
	other := map[string]any{"user_id": int64(8), "name": "Ada"}
	fmt.Println(msgpack.Digest("patch", first) == msgpack.Digest("patch", retry))
	fmt.Println(msgpack.Digest("patch", first) == msgpack.Digest("patch", other))
	fmt.Println(msgpack.Digest("patch", first) == msgpack.Digest("delete", first))
	// Output:
	// true
	// false
	// false
}
