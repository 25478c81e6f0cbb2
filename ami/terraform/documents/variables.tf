variable "role" {
  description = "Whose documents: \"hub\", \"spoke\", or \"discovery\", another account's role for the hub."
  type        = string
  validation {
    condition     = contains(["hub", "spoke", "discovery"], var.role)
    error_message = "The role is \"hub\", \"spoke\" or \"discovery\"."
  }
}

variable "partition" {
  description = "The partition of AWS: \"aws\", \"aws-cn\", \"aws-us-gov\"."
  type        = string
  default     = "aws"
}

variable "account" {
  description = "The account's id."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account))
    error_message = "An account's id has twelve digits."
  }
}

variable "region" {
  description = "The region of the instances."
  type        = string
}

variable "privnet" {
  description = "The private network, one CIDR."
  type        = string
  default     = "10.0.0.0/8"
  validation {
    condition     = can(cidrnetmask(var.privnet)) && cidrsubnet(var.privnet, 0, 0) == var.privnet
    error_message = "The privnet is a CIDR such as 10.0.0.0/8."
  }
}

variable "service_tag" {
  description = "The value of the spokes' tag `service`."
  type        = string
  default     = "nat"
  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{1,64}$", var.service_tag))
    error_message = "Letters, digits, `_`, `.` and `-`, at most 64."
  }
}

variable "environment_tag" {
  description = "The value of the spokes' tag `env`."
  type        = string
  default     = "prod"
  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{1,64}$", var.environment_tag))
    error_message = "Letters, digits, `_`, `.` and `-`, at most 64."
  }
}

variable "fleet_secret_parameter" {
  description = "The SSM parameter (SecureString) with the fleet's secret."
  type        = string
  default     = "/privnet/psk"
  validation {
    condition     = can(regex("^(/[A-Za-z0-9_.-]+)+$", var.fleet_secret_parameter))
    error_message = "A parameter's name such as /privnet/psk."
  }
}

variable "more_config" {
  description = "More of the config file, as TOML."
  type        = string
  default     = ""
}

# Of the hub.

variable "hub_key_parameter" {
  description = "The SSM parameter (SecureString) with the hub's private key."
  type        = string
  default     = "/privnet/hub/private-key"
  validation {
    condition     = can(regex("^(/[A-Za-z0-9_.-]+)+$", var.hub_key_parameter))
    error_message = "A parameter's name such as /privnet/hub/private-key."
  }
}

variable "site_secret_parameters" {
  description = "The SSM parameters (SecureString) with preshared keys of [[site]]s: a name, or all below one as /privnet/site/*; empty: none."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(|(/[A-Za-z0-9_.-]+)+(/\\*)?)$", var.site_secret_parameters))
    error_message = "A parameter's name, or all below one such as /privnet/site/*."
  }
}

variable "regions" {
  description = "The regions in which spokes are looked for."
  type        = list(string)
  default     = []
}

variable "proof" {
  description = "Whether spokes must prove which instance they are: \"off\", \"ask\" or \"require\"."
  type        = string
  default     = "require"
  validation {
    condition     = contains(["off", "ask", "require"], var.proof)
    error_message = "\"off\", \"ask\" or \"require\"."
  }
}

variable "discovery_roles" {
  description = "Roles in other accounts where spokes are looked for as well, with the external id that each asks for."
  type        = list(object({ role_arn = string, external_id = string }))
  default     = []
}

# Of a spoke.

variable "vpc_id" {
  description = "The spokes' VPC."
  type        = string
  default     = ""
}

variable "route_table_arns" {
  description = "The route tables that they may change."
  type        = list(string)
  default     = []
}

variable "address_arns" {
  description = "The Elastic IPs that they may have."
  type        = list(string)
  default     = []
}

variable "address_config" {
  description = "Which of them each has, as a line of [address]; empty: none."
  type        = string
  default     = ""
}

# By a word, and not by whether there is an address: that is known only when it exists,
# and which policies there are has to be known before.
variable "transport" {
  description = "How spokes reach the privnet: \"wireguard\", \"ipsec\", or \"none\" for the NAT gateways of the hub's own VPC."
  type        = string
  default     = "wireguard"
  validation {
    condition     = contains(["wireguard", "ipsec", "none"], var.transport)
    error_message = "\"wireguard\", \"ipsec\" or \"none\"."
  }
}

variable "hub_address" {
  description = "The hub's public address; not with transport \"none\"."
  type        = string
  default     = ""
}

variable "hub_public_key" {
  description = "The hub's public key; with transport \"wireguard\" alone."
  type        = string
  default     = ""
}

variable "second_hub_address" {
  description = "The public address of a second hub, with transport \"ipsec\" alone."
  type        = string
  default     = ""
}

variable "self_test_targets" {
  description = "Addresses and TCP ports on the internet that each spoke connects to."
  type        = list(string)
  default     = []
}

# Of another account's role.

variable "hub_role_arns" {
  description = "Who may assume it: the hub's role, or those of two hubs."
  type        = list(string)
  default     = []
}

variable "external_id" {
  description = "The external id that it asks for."
  type        = string
  default     = ""
}
