package localserver

import "slices"

// The functions that only tests use.

var (
	FreePorts    = freePorts
	AnyTaken     = anyTaken
	OnFreePorts  = onFreePorts
	FindPostgres = findPostgres
	FindRabbitMQ = findRabbitMQ
)

// Processes returns the ids of all processes of the server, the main process first.
func (s *server) Processes() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int
	for _, p := range slices.Backward(s.current.processes) {
		ids = append(ids, p.child.Pid)
		ids = append(ids, pids(findDescendants(p.child.Pid))...)
	}
	return ids
}

// HideInstallations makes the package find no installed programs, until restore is
// called.
func HideInstallations() (restore func()) {
	p, r, e := postgresFolders, rabbitmqFolders, erlangFolders
	postgresFolders, rabbitmqFolders, erlangFolders = nil, nil, nil
	return func() { postgresFolders, rabbitmqFolders, erlangFolders = p, r, e }
}
