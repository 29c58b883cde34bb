package localserver_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/glotpod/ident/deploy/localserver"
)

// If the environment variable victimVariable is set, this test binary is the victim: it
// starts servers in the folder that the variable names, and waits to be killed.
const victimVariable = "GLOTPOD_IDENT_TEST_VICTIM"

func victim(dir string) {
	ctx := context.Background()
	p, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{Dir: filepath.Join(dir, "postgres")})
	if err != nil {
		panic(err)
	}
	r, err := localserver.StartRabbitMQ(ctx, localserver.RabbitMQOptions{Dir: filepath.Join(dir, "rabbitmq")})
	if err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(append(p.Processes(), r.Processes()...)); err != nil {
		panic(err)
	}
	select {}
}

func TestServersDieWithTheProgram(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can signal a child when its parent dies")
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"="+ownDir(t))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	decodeErr := json.NewDecoder(out).Decode(&pids)
	cmd.Process.Kill()
	cmd.Wait()
	if decodeErr != nil {
		t.Fatal(decodeErr)
	}
	if len(pids) < 3 {
		t.Fatalf("the program had started only %v", pids)
	}
	awaitGone(t, pids)
}
