// Package jsonpatch applies JSON Patch (RFC 6902), addressed by JSON Pointer
// (RFC 6901), to decoded values.
//
// It is our own for two reasons. The wire contract answers a patch that asks
// for what makes no sense differently from one that merely does not fit the
// document, and both differently from a failed test, so a failure has to say
// which it is (see [Kind]). And service ids are 64-bit integers, so a value
// must never pass through JSON text or a float64 on its way.
//
// # Values
//
// A document is a tree of
//
//	nil, bool, string,
//	int64, uint64, float64   numbers, compared by their exact value
//	[]byte                   binary data, never equal to a string
//	[]any                    an array
//	map[string]any           an object
//
// A value of any other type is a leaf that is moved about as it is and equals
// what reflect.DeepEqual says it equals.
//
// # Promises
//
// Apply changes neither the document nor the patch, and a patch applies as a
// whole or not at all. What no operation reached is not copied: the result may
// share it with the document and the patch, so all three are to be treated as
// read-only from then on. Whatever the patch, Apply does not panic and ends
// within its [Limit]. An [Error] names the operation and its pointer, never a
// value: documents hold access tokens.
//
// Whether the result is a valid user is for the caller to decide.
package jsonpatch
