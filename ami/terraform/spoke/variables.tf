variable "name" {
  description = "What they are called, once in the account: small letters, digits and hyphens."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,31}$", var.name))
    error_message = "Small letters, digits and hyphens, at most 32."
  }
}

variable "image_id" {
  description = "The spokes' AMI, of the architecture of the instance type."
  type        = string
}

variable "instance_type" {
  description = "Their size: the network bandwidth of the type is the most that one can pass on."
  type        = string
  default     = "t3.small"
}

variable "vpc_id" {
  description = "Their VPC."
  type        = string
}

variable "public_subnet_ids" {
  description = "A public subnet in each zone that gets a spoke."
  type        = list(string)
  validation {
    condition     = length(var.public_subnet_ids) > 0
    error_message = "At least one subnet."
  }
}

variable "private_route_table_ids" {
  description = "The route tables that they may change: those with the tag `privnet:az`, whose value is the zone."
  type        = list(string)
}

variable "privnet" {
  description = "The private network, the same as on the hub."
  type        = string
  default     = "10.0.0.0/8"
}

variable "transport" {
  description = "How they reach it: \"wireguard\"; \"none\" for the NAT gateways of the hub's own VPC; for \"ipsec\" see ../../DEPLOY.md."
  type        = string
  default     = "wireguard"
}

variable "hub_address" {
  description = "The hub's public address; not with transport \"none\"."
  type        = string
  default     = ""
}

variable "hub_public_key" {
  description = "The hub's public key, as `wg pubkey` prints it; with transport \"wireguard\" alone."
  type        = string
  default     = ""
}

variable "second_hub_address" {
  description = "The public address of a second hub, with transport \"ipsec\" alone: used while the first is down."
  type        = string
  default     = ""
}

variable "fleet_secret_parameter" {
  description = "The SSM parameter (SecureString, in this region) with the fleet's secret."
  type        = string
  default     = "/privnet/psk"
}

variable "service_tag" {
  description = "Their tag `service`, as on the hub."
  type        = string
  default     = "nat"
}

variable "environment_tag" {
  description = "Their tag `env`, as on the hub."
  type        = string
  default     = "prod"
}

variable "self_test_targets" {
  description = "Addresses and TCP ports on the internet that each connects to, once a second: several that do not fail together."
  type        = list(string)
}

variable "addresses" {
  description = "The Elastic IPs: \"none\", one for \"each\" spoke, or \"one\" that they share (an account has five in a region by default)."
  type        = string
  default     = "each"
  validation {
    condition     = contains(["none", "each", "one"], var.addresses)
    error_message = "\"none\", \"each\" or \"one\"."
  }
}

variable "keep_connections" {
  description = "Whether connections to the internet go on when the \"one\" address moves to another spoke."
  type        = bool
  default     = false
}

variable "more_config" {
  description = "More of spoke.toml: [[nat.forward]], [[nat.redirect]] and other sections."
  type        = string
  default     = ""
}
