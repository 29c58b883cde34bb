package config

import "strings"

// Nearest returns the known name that is most similar to name, or "" if no name is similar.
// A name without its section matches the known name that ends with it, if there is only
// one.
func Nearest(name string, known []string) string {
	var ends []string
	for _, k := range known {
		if strings.HasSuffix(k, "."+name) {
			ends = append(ends, k)
		}
	}
	if len(ends) == 1 {
		return ends[0]
	}
	best, least := "", 3+len(name)/10
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns how many bytes must be inserted, removed or replaced to turn
// a into b (Levenshtein distance).
func distance(a, b string) int {
	// row[j] is the distance between the processed part of a and b[:j].
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
