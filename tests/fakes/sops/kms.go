// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package kms

import (
	"time"

	"github.com/getsops/sops/v3/keys"
)

type MasterKey struct {
	keys.LeftOut
	Arn, Role, EncryptedKey, AwsProfile string
	CreationDate                        time.Time
	EncryptionContext                   map[string]*string
}

func NewMasterKeyWithProfile(_, _ string, _ map[string]*string, _ string) *MasterKey {
	return &MasterKey{}
}
func NewMasterKeyFromArn(string, map[string]*string, string) *MasterKey       { return &MasterKey{} }
func MasterKeysFromArnString(string, map[string]*string, string) []*MasterKey { return nil }
func ParseKMSContext(interface{}) map[string]*string                          { return nil }
