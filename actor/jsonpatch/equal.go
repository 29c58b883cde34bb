package jsonpatch

import (
	"bytes"
	"math"
	"reflect"
)

// equal compares two values as RFC 6902 defines it for test: numbers by value, whatever
// their types, strings by code points, arrays in order, objects in any order. Its cost
// is bounded by the smaller of the two values. An object is equal to one without its hidden
// members; no other hidden value is equal to anything.
func equal(a, b any) bool {
	if members, ok := membersOf(a); ok {
		other, ok := membersOf(b)
		return ok && equalMembers(members, other)
	}
	if items, ok := itemsOf(a); ok {
		other, ok := itemsOf(b)
		return ok && equalItems(items, other)
	}
	switch a := a.(type) {
	case Hidden:
		return false
	case nil:
		return b == nil
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	case string:
		b, ok := b.(string)
		return ok && a == b
	case []byte:
		b, ok := b.([]byte)
		return ok && bytes.Equal(a, b)
	case int64, uint64, float64:
		return equalNumbers(a, b)
	}
	return reflect.DeepEqual(a, b)
}

func equalMembers(a, b map[string]any) bool {
	shown := 0 // members of a
	for key, v := range a {
		if isHidden(v) {
			continue
		}
		other, ok := b[key]
		if !ok || !equal(v, other) {
			return false
		}
		shown++
	}
	return shown == len(b)
}

func equalItems(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i, v := range a {
		if !equal(v, b[i]) {
			return false
		}
	}
	return true
}

// equalNumbers compares a number with any value, without rounding.
func equalNumbers(a, b any) bool {
	if a, ok := a.(float64); ok {
		if b, ok := b.(float64); ok {
			return a == b
		}
	}
	x, ok := asInteger(a)
	if !ok {
		return false
	}
	y, ok := asInteger(b)
	return ok && x == y
}

// An integer is a whole number with a sign and 64 bits. Equal numbers are equal integers.
type integer struct {
	negative  bool
	magnitude uint64
}

// asInteger converts v to an integer, if v is exactly an integer.
func asInteger(v any) (integer, bool) {
	switch v := v.(type) {
	case uint64:
		return integer{magnitude: v}, true
	case int64:
		if v < 0 {
			return integer{negative: true, magnitude: -uint64(v)}, true
		}
		return integer{magnitude: uint64(v)}, true
	case float64:
		magnitude := math.Abs(v)
		if magnitude < 1<<64 && magnitude == math.Trunc(magnitude) {
			return integer{negative: v < 0, magnitude: uint64(magnitude)}, true
		}
	}
	return integer{}, false
}
