package localserver

func pids(family []descendant) (ids []int) {
	for _, r := range family {
		ids = append(ids, r.pid)
	}
	return ids
}

// Alive reports whether the process runs. One that has ended does not, though
// whoever inherited it may not have taken notice yet.
func Alive(pid int) bool {
	_, state, _, ok := stat(pid)
	return ok && state != 'Z'
}
