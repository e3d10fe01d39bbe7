// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

// policy is the part of a policy file that this server understands. It refuses what it does not understand.
type policy struct {
	Groups    map[string][]string `json:"groups"`
	TagOwners map[string][]string `json:"tagOwners"`
	Grants    []struct {
		Src []string `json:"src"`
		Dst []string `json:"dst"`
		IP  []string `json:"ip"`
	} `json:"grants"`
	SSH []struct {
		Action string   `json:"action"`
		Src    []string `json:"src"`
		Dst    []string `json:"dst"`
		Users  []string `json:"users"`
	} `json:"ssh"`
}

func parse(text []byte) (policy, error) {
	var found policy
	standard, err := hujson.Standardize(text)
	if err != nil {
		return found, err
	}
	decoder := json.NewDecoder(strings.NewReader(string(standard)))
	decoder.DisallowUnknownFields()
	return found, decoder.Decode(&found)
}

// isOne says whether selectors name a node: by its tag, or by a group of its user.
func (p policy) isOne(node *tailcfg.Node, selectors []string, logins map[string]string) bool {
	for _, selector := range selectors {
		if slices.Contains(node.Tags, selector) {
			return true
		}
		login := logins[node.Hostinfo.Hostname()]
		// A node with tags has no user.
		if len(node.Tags) == 0 && login != "" && slices.Contains(p.Groups[selector], login) {
			return true
		}
	}
	return false
}

// rules returns who may reach which ports of a node, and who may log in on it.
func (p policy) rules(
	to *tailcfg.Node, nodes []*tailcfg.Node, logins map[string]string,
) ([]tailcfg.FilterRule, *tailcfg.SSHPolicy) {
	// Not nil, which would mean: as before.
	filter, ssh := []tailcfg.FilterRule{}, &tailcfg.SSHPolicy{}
	for _, grant := range p.Grants {
		from := p.addresses(nodes, grant.Src, logins)
		if !p.isOne(to, grant.Dst, logins) || len(from) == 0 {
			continue
		}
		for _, address := range to.Addresses {
			for _, service := range grant.IP {
				port, err := strconv.ParseUint(strings.TrimPrefix(service, "tcp:"), 10, 16)
				if err != nil {
					panic(fmt.Sprintf("%s: only tcp:PORT is understood", service))
				}
				filter = append(filter, tailcfg.FilterRule{SrcIPs: from, IPProto: []int{6}, DstPorts: []tailcfg.NetPortRange{
					{IP: address.Addr().String(), Ports: tailcfg.PortRange{First: uint16(port), Last: uint16(port)}},
				}})
			}
		}
	}
	for _, rule := range p.SSH {
		if !p.isOne(to, rule.Dst, logins) {
			continue
		}
		users := map[string]string{"root": ""}
		for _, user := range rule.Users {
			if user == "autogroup:nonroot" {
				users["*"] = "="
			} else {
				users[user] = user
			}
		}
		made := &tailcfg.SSHRule{SSHUsers: users, Action: &tailcfg.SSHAction{Accept: rule.Action == "accept"}}
		for _, address := range p.addresses(nodes, rule.Src, logins) {
			made.Principals = append(made.Principals, &tailcfg.SSHPrincipal{NodeIP: address})
		}
		ssh.Rules = append(ssh.Rules, made)
	}
	return filter, ssh
}

func (p policy) addresses(nodes []*tailcfg.Node, selectors []string, logins map[string]string) []string {
	found := []string{}
	for _, node := range nodes {
		if p.isOne(node, selectors, logins) {
			for _, address := range node.Addresses {
				found = append(found, address.Addr().String())
			}
		}
	}
	return found
}
