package tracing

import "strings"

// Sizes of the parts of a traceparent: version, trace id, parent id and flags, with
// dashes in between.
const (
	versionSize = 2
	traceIDSize = 32
	spanIDSize  = 16
	flagsSize   = 2
	parentSize  = versionSize + 1 + traceIDSize + 1 + spanIDSize + 1 + flagsSize

	parentLimit = 255 // of any version
)

// isParent reports whether a traceparent has the form of the W3C recommendation "Trace
// Context". A version above 00 may have more parts, which are unknown.
func isParent(s string) bool {
	if len(s) < parentSize || len(s) > parentLimit {
		return false
	}
	version, rest := s[:versionSize], s[versionSize:]
	traceID, rest, ok := cutPart(rest, traceIDSize)
	if !ok {
		return false
	}
	spanID, rest, ok := cutPart(rest, spanIDSize)
	if !ok {
		return false
	}
	_, rest, ok = cutPart(rest, flagsSize)
	switch {
	case !ok, !isHex(version), version == "ff", isZero(traceID), isZero(spanID):
		return false
	case version == "00":
		return rest == ""
	}
	return rest == "" || rest[0] == '-' && !strings.ContainsFunc(rest, isUnprintable)
}

// cutPart cuts a dash and a part of so many hexadecimal digits off s, which is long
// enough.
func cutPart(s string, size int) (part, rest string, ok bool) {
	part, rest = s[1:1+size], s[1+size:]
	return part, rest, s[0] == '-' && isHex(part)
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

func isZero(s string) bool { return strings.Trim(s, "0") == "" }

func isUnprintable(r rune) bool { return r <= ' ' || r > '~' }
