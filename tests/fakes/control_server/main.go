// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// A control server and a relay for a tailnet in tests: Tailscale's own test server, which knows no access rules, with
// those of a policy file, and with an administrator's requests below /admin/. Its state is in memory.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

const (
	controlPort = 8080
	relayPort   = 3340
	// How soon nodes hear of a change.
	period = 200 * time.Millisecond
)

// server is the control server.
type server struct {
	*testcontrol.Server
	policy policy
	// The host name of a node -> the login of its user.
	logins map[string]string
	// When keys expire. A renewed key is another one.
	expiries sync.Map
	// A node's id -> its present key: the library keeps a node once for each key that it ever had.
	present sync.Map
}

// stream answers the map requests of a node. The library's own answer allows everything, at each change.
func (s *server) stream(ctx context.Context, w testcontrol.MapStreamWriter, req *tailcfg.MapRequest) {
	if !req.Stream {
		s.note(req)
		_ = w.SendMapMessage(&tailcfg.MapResponse{})
		return
	}
	if node := s.Node(req.NodeKey); node != nil {
		s.present.Store(node.StableID, node.Key)
	}
	var sent *tailcfg.MapResponse
	for {
		res, err := s.MapResponse(req)
		if err != nil || res == nil {
			return
		}
		res.PacketFilter, res.SSHPolicy = s.policy.rules(res.Node, s.AllNodes(), s.logins)
		res.Peers = slices.DeleteFunc(res.Peers, func(peer *tailcfg.Node) bool {
			present, there := s.present.Load(peer.StableID)
			return there && present != peer.Key
		})
		// The library's is a day of 2020, by which no key ever expires.
		res.ControlTime = nil
		if expiry, there := s.expiries.Load(req.NodeKey); there {
			res.Node.KeyExpiry = expiry.(time.Time)
		}
		if sent == nil || !reflect.DeepEqual(sent, res) {
			if w.SendMapMessage(res) != nil {
				return
			}
			sent = res
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

// note records what a node says about itself.
func (s *server) note(req *tailcfg.MapRequest) {
	node := s.Node(req.NodeKey)
	if node == nil || req.ReadOnly {
		return
	}
	node.Endpoints, node.DiscoKey, node.Cap = req.Endpoints, req.DiscoKey, req.Version
	if req.Hostinfo != nil {
		node.Hostinfo = req.Hostinfo.View()
		if info := node.Hostinfo.NetInfo(); info.Valid() && info.PreferredDERP() != 0 {
			node.HomeDERP = info.PreferredDERP()
		}
	}
	s.UpdateNode(node)
}

// nodes lists the nodes.
func (s *server) nodes(w http.ResponseWriter, _ *http.Request) {
	found := map[tailcfg.StableNodeID]any{}
	for _, node := range s.AllNodes() {
		found[node.StableID] = map[string]any{
			"name": node.Hostinfo.Hostname(), "address": node.Addresses[0].Addr(), "tags": node.Tags,
		}
	}
	_ = json.NewEncoder(w).Encode(found)
}

// key sets the key with which nodes may join; empty: they need none.
func (s *server) key(w http.ResponseWriter, r *http.Request) {
	s.RequireAuthKey = r.FormValue("key")
}

// expire sets how long the present key of a node is still valid.
func (s *server) expire(w http.ResponseWriter, r *http.Request) {
	after, err := time.ParseDuration(r.FormValue("after"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, node := range s.AllNodes() {
		if node.Hostinfo.Hostname() == r.FormValue("name") {
			s.expiries.Store(node.Key, time.Now().Add(after))
		}
	}
}

// mint answers an OAuth client as api.tailscale.com does: first with a token, then with a key to join.
func (s *server) mint(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/token") {
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "token", "token_type": "Bearer", "expires_in": 60})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"id": "k1", "key": s.RequireAuthKey})
}

// relay serves DERP with TLS: without, nodes find each other only after a minute.
func relay() {
	relay := derpserver.New(key.NewNode(), logger.Discard)
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.Handler(relay))
	mux.HandleFunc("/derp/probe", derpserver.ProbeHandler)
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", relayPort))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewUnstartedServer(mux)
	server.Listener.Close()
	server.Listener = listener
	// HTTP/2 cannot be upgraded.
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server.StartTLS()
}

func main() {
	address := flag.String("address", "127.0.0.1", "at which nodes reach this machine")
	authKey := flag.String("key", "", "with which nodes may join")
	policyFile := flag.String("policy", "", "access rules")
	logins := flag.String("logins", "", "whose node is whose: NAME=LOGIN,…")
	flag.Parse()
	text, err := os.ReadFile(*policyFile)
	if err != nil {
		log.Fatal(err)
	}
	rules, err := parse(text)
	if err != nil {
		log.Fatalf("%s: %v", *policyFile, err)
	}
	relay()
	node := &tailcfg.DERPNode{
		Name: "1a", RegionID: 1, HostName: *address, IPv4: *address, IPv6: "none", STUNPort: -1, DERPPort: relayPort,
		InsecureForTests: true,
	}
	s := &server{policy: rules, logins: map[string]string{}}
	for _, pair := range strings.Split(*logins, ",") {
		name, login, _ := strings.Cut(pair, "=")
		s.logins[name] = login
	}
	s.Server = &testcontrol.Server{
		Logf:            logger.Discard,
		ExplicitBaseURL: fmt.Sprintf("http://%s:%d", *address, controlPort),
		RequireAuthKey:  *authKey,
		AllOnline:       true,
		MagicDNSDomain:  "tailnet.test",
		TagOwners:       rules.TagOwners,
		// Without one, no node may run Tailscale's SSH server.
		SSHPolicy: &tailcfg.SSHPolicy{},
		DERPMap: &tailcfg.DERPMap{OmitDefaultRegions: true, Regions: map[int]*tailcfg.DERPRegion{
			1: {RegionID: 1, RegionCode: "test", Nodes: []*tailcfg.DERPNode{node}},
		}},
		AltMapStream: s.stream,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/admin/nodes", s.nodes)
	mux.HandleFunc("/admin/key", s.key)
	mux.HandleFunc("/admin/expire", s.expire)
	mux.HandleFunc("/api/v2/", s.mint)
	mux.Handle("/", s.Server)
	log.Fatal(http.ListenAndServe(fmt.Sprintf(":%d", controlPort), mux))
}
