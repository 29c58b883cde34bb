package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A kind is the type of a setting, with the field that gets its value.
type kind interface {
	// String describes the valid values; it completes "must be …".
	String() string
	// parse converts the text of an environment variable to the value that package
	// toml would return. If the text is not valid, parse returns the text itself.
	parse(text string) any
	// put checks a value from package toml and stores it in the field. The error
	// contains no secret.
	put(value any) error
}

// text is a string that ok accepts.
type text struct {
	into  *string
	wants string
	ok    func(string) bool
}

// anyText accepts any string, also an empty one.
func anyText(into *string) text {
	return text{into, "text", func(string) bool { return true }}
}

// filled accepts any string that is not empty.
func filled(into *string) text {
	return text{into, "text that is not empty", func(s string) bool { return s != "" }}
}

// oneOf accepts one of several words.
func oneOf(into *string, words ...string) text {
	return text{into, "one of " + strings.Join(words, ", "), func(s string) bool { return slices.Contains(words, s) }}
}

func (t text) String() string { return t.wants }

func (t text) parse(s string) any { return s }

func (t text) put(value any) error {
	s, err := plainText(value)
	if err != nil {
		return err
	}
	if !t.ok(s) {
		return mismatch(t, value)
	}
	*t.into = s
	return nil
}

// addressList is one or more addresses, separated by commas.
type addressList struct {
	into    *[]Address
	sockets bool // the directory of a Unix socket is an address too
}

func (a addressList) String() string {
	if a.sockets {
		return "one or several of host, host:port, [IPv6]:port or /directory, separated by commas"
	}
	return "one or several of host, host:port or [IPv6]:port, separated by commas"
}

func (a addressList) parse(s string) any { return s }

func (a addressList) put(value any) error {
	s, err := plainText(value)
	if err != nil {
		return err
	}
	var addresses []Address
	for element := range strings.SplitSeq(s, ",") {
		address, ok := parseAddress(strings.TrimSpace(element), a.sockets)
		if !ok {
			return mismatch(a, value)
		}
		addresses = append(addresses, address)
	}
	*a.into = addresses
	return nil
}

// addressPattern matches [IPv6] or a host, and perhaps a port.
var addressPattern = regexp.MustCompile(`^(?:\[([^][]+)\]|([^][:/@\s]+))(?::([0-9]{1,5}))?$`)

// parseAddress parses one address. The port is 0 if the text has none.
func parseAddress(s string, sockets bool) (Address, bool) {
	if strings.HasPrefix(s, "/") {
		return Address{Host: s}, sockets
	}
	if isIP(s) {
		return Address{Host: s}, true
	}
	parts := addressPattern.FindStringSubmatch(s)
	if parts == nil || parts[1] != "" && !isIP(parts[1]) {
		return Address{}, false
	}
	address := Address{Host: parts[1] + parts[2]}
	if parts[3] == "" {
		return address, true
	}
	port, err := strconv.ParseUint(parts[3], 10, 16)
	address.Port = int(port)
	return address, err == nil && port > 0
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// nameList is a list of names, or text with the names separated by commas.
type nameList struct{ into *[]string }

func (n nameList) String() string { return "a list of names, or names separated by commas" }

func (n nameList) parse(s string) any { return s }

// put leaves a list that is not nil, also if it is empty.
func (n nameList) put(value any) error {
	names := []string{}
	list, isList := value.([]any)
	if !isList {
		s, err := plainText(value)
		if err != nil {
			return mismatch(n, value)
		}
		if strings.TrimSpace(s) != "" {
			for name := range strings.SplitSeq(s, ",") {
				list = append(list, name)
			}
		}
	}
	for _, element := range list {
		name, err := plainText(element)
		if err != nil {
			return mismatch(n, element)
		}
		if name = strings.TrimSpace(name); name == "" || len(name) > maxLogin {
			return fmt.Errorf("must be %s; a name has 1 to %d bytes", n, maxLogin)
		}
		names = append(names, name)
	}
	*n.into = names
	return nil
}

// maxLogin is the maximum length of a login of RabbitMQ in bytes, as a property of a message.
const maxLogin = 255

// number is a whole number from min to max.
type number struct {
	into     *int
	min, max int64
}

func (n number) String() string { return fmt.Sprintf("a whole number from %d to %d", n.min, n.max) }

func (n number) parse(s string) any {
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return s
	}
	return i
}

func (n number) put(value any) error {
	i, ok := value.(int64)
	if !ok || i < n.min || i > n.max {
		return mismatch(n, value)
	}
	*n.into = int(i)
	return nil
}

// fraction is a number from 0 to 1.
type fraction struct{ into *float64 }

func (f fraction) String() string { return "a number from 0 to 1" }

func (f fraction) parse(s string) any {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s
	}
	return n
}

func (f fraction) put(value any) error {
	n, ok := value.(float64)
	if whole, isWhole := value.(int64); isWhole {
		n, ok = float64(whole), true
	}
	switch {
	case !ok:
		return mismatch(f, value)
	case !(n >= 0 && n <= 1): // also false for NaN
		return fmt.Errorf("must be %s, not %v", f, value)
	}
	*f.into = n
	return nil
}

// tenths is a number from min to max tenths, in steps of one tenth. The field gets the
// number of tenths.
type tenths struct {
	into     *int
	min, max int
}

func (t tenths) String() string {
	return fmt.Sprintf("a number from %v to %v in steps of 0.1", float64(t.min)/10, float64(t.max)/10)
}

func (t tenths) parse(s string) any { return fraction{}.parse(s) }

func (t tenths) put(value any) error {
	n, ok := value.(float64)
	if whole, isWhole := value.(int64); isWhole {
		n, ok = float64(whole), true
	}
	if !ok {
		return mismatch(t, value)
	}
	steps := math.Round(n * 10)
	if !(steps >= float64(t.min) && steps <= float64(t.max)) || steps/10 != n { // also if n is NaN
		return fmt.Errorf("must be %s, not %v", t, value)
	}
	*t.into = int(steps)
	return nil
}

// flag is true or false.
type flag struct{ into *bool }

func (f flag) String() string { return "true or false" }

func (f flag) parse(s string) any {
	switch s {
	case "true":
		return true
	case "false":
		return false
	}
	return s
}

func (f flag) put(value any) error {
	b, ok := value.(bool)
	if !ok {
		return mismatch(f, value)
	}
	*f.into = b
	return nil
}

// duration is a time span from min to max, written as text with a unit.
type duration struct {
	into     *time.Duration
	min, max time.Duration
}

// withUnits matches all durations, also those that overflow a time.Duration.
var withUnits = regexp.MustCompile(`^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`)

func (d duration) String() string {
	return fmt.Sprintf("a duration from %s to %s", short(d.min), short(d.max))
}

func (d duration) parse(s string) any { return s }

func (d duration) put(value any) error {
	s, _ := value.(string)
	length, err := time.ParseDuration(s)
	switch {
	case err != nil && !withUnits.MatchString(s):
		return fmt.Errorf("%w; it is text with a unit, as in \"90s\"", mismatch(d, value))
	case err != nil || length < d.min || length > d.max:
		return mismatch(d, value)
	}
	*d.into = length
	return nil
}

// short formats a whole number of seconds without the units that are zero.
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// fileSuffix is the suffix of settings that name a secret's file.
const fileSuffix = "_file"

// fileOf is the path of a file with a secret. If there is a setting of the same name
// without fileSuffix, loader.openSecretFiles puts the secret into the field of that setting.
type fileOf struct{ into *string }

func (f fileOf) String() string { return "the path of a file" }

func (f fileOf) parse(s string) any { return s }

func (f fileOf) put(value any) (err error) {
	*f.into, err = plainText(value)
	return err
}

// plainText returns value as a string, or an error if it is none.
func plainText(value any) (string, error) {
	s, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("must be text, not %s", typeName(value))
	}
	if strings.ContainsRune(s, 0) {
		return "", errors.New("must not contain a NUL")
	}
	return s, nil
}

// mismatch returns the error for a value that k does not accept. It shows the value, so it
// must not be used for secrets.
func mismatch(k kind, value any) error {
	shown := typeName(value)
	switch v := value.(type) {
	case string:
		if len(v) <= 64 && !strings.Contains(v, "\n") {
			shown = fmt.Sprintf("the text %q", v)
		}
	case int64, bool:
		shown = fmt.Sprint(v)
	}
	return fmt.Errorf("must be %s, not %s", k, shown)
}

// typeName names the TOML type of value.
func typeName(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("a text of %d bytes", len(v))
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date or time"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a list of tables"
	}
}
