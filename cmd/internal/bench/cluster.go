package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/devcluster"
	"github.com/glotpod/ident/config"
)

// A privateCluster is a cluster with its data in a temporary folder.
type privateCluster struct {
	cluster   *devcluster.Cluster
	dir       string
	instances int
}

// openCluster creates the folder. It starts nothing.
func openCluster(o options, env *cli.Env) (_ *privateCluster, err error) {
	program, err := devcluster.FindProgram()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "glotpod-ident-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o711); err != nil { // for PostgreSQL's user
			return nil, err
		}
	}
	cluster, err := devcluster.Open(devcluster.Options{
		Program:   program,
		Folder:    filepath.Join(dir, "data"),
		Instances: o.local,
		LogFormat: config.LogConsole,
		Count:     true,
		Variables: []string{
			"GLOTPOD_IDENT__LOG__LEVEL=warn",
			"GLOTPOD_IDENT__CLUSTER__PARTITIONS=" + strconv.Itoa(o.partitions),
			"GLOTPOD_IDENT__CLUSTER__QUEUE_TYPE=" + o.queueType,
		},
		Environ: env.Environ,
		Stdout:  io.Discard,
		Stderr:  env.Stderr,
	})
	if err != nil {
		return nil, err
	}
	return &privateCluster{cluster: cluster, dir: dir, instances: o.local}, nil
}

func (c *privateCluster) start(ctx context.Context, progress *cli.StatusLine) error {
	progress.Show("starting RabbitMQ and PostgreSQL in %s", c.dir)
	if err := c.cluster.StartServers(ctx); err != nil {
		return err
	}
	progress.Show("starting %d instances", c.instances)
	return c.cluster.StartInstances(ctx)
}

// stop kills all processes and deletes the data.
func (c *privateCluster) stop() error {
	c.cluster.Kill()
	c.cluster.Close()
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove the temporary data: %w", err)
	}
	return nil
}
