// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// A node for tests, as far as an API server sees it that is asked to execute a command in a pod: Kubernetes' own
// streams, before the commands of this machine. Its one argument is a program that is called in place of the words.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"time"

	apitypes "k8s.io/apimachinery/pkg/types"
	consts "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	streaming "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

type node struct{}

// ExecInContainer implements streaming.Executor.
func (node) ExecInContainer(ctx context.Context, name string, _ apitypes.UID, container string, words []string,
	in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	command := exec.CommandContext(ctx, os.Args[1], append([]string{name, container}, words...)...)
	command.Stdout, command.Stderr = out, err
	// Not command.Stdin: it would be waited for until its end, which may never come.
	pipe, failed := command.StdinPipe()
	if failed == nil {
		go func() {
			io.Copy(pipe, in)
			pipe.Close()
		}()
		failed = command.Run()
	}
	// As containerd does.
	out.Close()
	err.Close()
	var ended *exec.ExitError
	if errors.As(failed, &ended) {
		return utilexec.CodeExitError{Err: failed, Code: ended.ExitCode()}
	}
	return failed
}

func serve(answer http.ResponseWriter, request *http.Request) {
	// /exec/NAMESPACE/POD/CONTAINER
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	if len(parts) != 4 || parts[0] != "exec" {
		http.NotFound(answer, request)
		return
	}
	options, err := streaming.NewOptions(request)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	streaming.ServeExec(answer, request, node{}, parts[2], "", parts[3], request.URL.Query()["command"], options,
		time.Minute, time.Minute, consts.SupportedStreamingProtocols)
}

func main() {
	server := httptest.NewTLSServer(http.HandlerFunc(serve))
	fmt.Println(server.Listener.Addr().String())
	// Until whoever started it is gone.
	io.Copy(io.Discard, os.Stdin)
}
