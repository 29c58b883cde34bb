package localserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// ErrNotInstalled is wrapped by the error of a start that does not find the server's
// programs. The text of that error says what to install.
var ErrNotInstalled = errors.New("not installed")

// installHint ends every error about missing programs.
const installHint = "install RabbitMQ and PostgreSQL: on Debian or Ubuntu by `apt-get install rabbitmq-server postgresql`, on macOS by `brew install rabbitmq postgresql`"

func notInstalled(what string) error {
	return fmt.Errorf("%s: %w (%s)", what, ErrNotInstalled, installHint)
}

// The folders where packages put the programs, in order of preference. If a pattern
// matches several versions, the one that sorts last is used.
var (
	postgresFolders = []string{
		"/usr/lib/postgresql/*/bin", // Debian
		"/usr/pgsql-*/bin",          // the rpm of the PostgreSQL project
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
		"/usr/local/pgsql/bin",
	}
	// These come before the PATH: Debian's command on the PATH is a wrapper that
	// switches to another user and drops the environment.
	rabbitmqFolders = []string{
		"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
		"/usr/local/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
		"/opt/rabbitmq/sbin",
		"/opt/homebrew/opt/rabbitmq/sbin",
		"/usr/local/opt/rabbitmq/sbin",
	}
	erlangFolders = []string{
		"/usr/lib/erlang/bin",
		"/usr/lib64/erlang/bin",
		"/usr/local/lib/erlang/bin",
		"/opt/homebrew/bin",
	}
)

// These environment variables name the folders that hold the programs of a server. If one
// is not set, the programs that are installed on the machine are used.
const (
	postgresVariable = "GLOTPOD_IDENT_POSTGRES"
	rabbitmqVariable = "GLOTPOD_IDENT_RABBITMQ"
)

// findPostgres returns the folder that holds initdb and postgres. A folder on the PATH
// is preferred to others, because it was put there to choose a version.
func findPostgres() (string, error) {
	if folder, err := namedFolder(postgresVariable, "initdb", "postgres"); folder != "" || err != nil {
		return folder, err
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if folder := filepath.Dir(initdb); executable(filepath.Join(folder, "postgres")) {
			return folder, nil
		}
	}
	if folder, ok := findIn(postgresFolders, "initdb", "postgres"); ok {
		return folder, nil
	}
	return "", notInstalled("PostgreSQL's initdb and postgres")
}

// findRabbitMQ returns the script rabbitmq-server and the program epmd. If the folder of
// the environment variable has no epmd, an installed epmd is used: its protocol is the same
// in all versions of Erlang.
func findRabbitMQ() (server, epmd string, err error) {
	folder, err := namedFolder(rabbitmqVariable, "rabbitmq-server", "rabbitmqctl")
	if err != nil {
		return "", "", err
	}
	if epmd := filepath.Join(folder, "epmd"); folder != "" && executable(epmd) {
		return filepath.Join(folder, "rabbitmq-server"), epmd, nil
	}
	if folder == "" {
		folder, _ = findIn(rabbitmqFolders, "rabbitmq-server")
	}
	if folder != "" {
		server = filepath.Join(folder, "rabbitmq-server")
	} else if server, err = exec.LookPath("rabbitmq-server"); err != nil {
		return "", "", notInstalled("rabbitmq-server")
	}
	if epmd, err = exec.LookPath("epmd"); err == nil {
		return server, epmd, nil
	}
	if folder, ok := findIn(erlangFolders, "epmd", "erl"); ok {
		return server, filepath.Join(folder, "epmd"), nil
	}
	return "", "", notInstalled("Erlang's epmd")
}

// namedFolder returns the absolute path of the folder that an environment variable names,
// or "" if the variable is not set. The folder must hold all the programs.
func namedFolder(variable string, programs ...string) (string, error) {
	named := os.Getenv(variable)
	if named == "" {
		return "", nil
	}
	folder, err := filepath.Abs(named)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	for _, p := range programs {
		if !executable(filepath.Join(folder, p)) {
			return "", fmt.Errorf("%s names the folder %s, which has no program %s", variable, named, p)
		}
	}
	return folder, nil
}

// findIn returns the first folder that holds all the programs.
func findIn(patterns []string, programs ...string) (folder string, ok bool) {
	for _, pattern := range patterns {
		folders, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, folder := range slices.Backward(folders) {
			if !slices.ContainsFunc(programs, func(p string) bool {
				return !executable(filepath.Join(folder, p))
			}) {
				return folder, true
			}
		}
	}
	return "", false
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
