variable "name" {
  description = "What it is called: small letters, digits and hyphens."
  type        = string
  default     = "hub"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,31}$", var.name))
    error_message = "Small letters, digits and hyphens, at most 32."
  }
}

variable "image_id" {
  description = "The hub's AMI, of the architecture of the instance type."
  type        = string
}

variable "instance_type" {
  description = "Its size: the network bandwidth of the type is the most that the hub can relay."
  type        = string
  default     = "c6in.large"
}

variable "public_subnet_id" {
  description = "A public subnet, in which the hub is."
  type        = string
}

variable "hubs" {
  description = "How many hubs: a second one is for spokes by IPsec, and for those by WireGuard that name it instead."
  type        = number
  default     = 1
  validation {
    condition     = contains([1, 2], var.hubs)
    error_message = "1 or 2."
  }
}

variable "second_public_subnet_id" {
  description = "With two hubs: a public subnet for the second, in another zone of the same VPC."
  type        = string
  default     = ""
}

variable "second_hub_key_parameter" {
  description = "The SSM parameter (SecureString) with the second hub's private key, which is not the first's."
  type        = string
  default     = "/privnet/hub-2/private-key"
}

variable "private_route_table_ids" {
  description = "The private route tables of that VPC, which get a route to the privnet."
  type        = list(string)
}

variable "privnet" {
  description = "The private network: the CIDR in which all VPCs lie."
  type        = string
  default     = "10.0.0.0/8"
}

variable "tunnel_sources" {
  description = "Who may call the tunnel port; anybody, unless you know the spokes' addresses beforehand."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "ipsec_sources" {
  description = "Who may call the ports of IPsec, where more_config has sites by it."
  type        = list(string)
  default     = []
}

variable "hub_key_parameter" {
  description = "The SSM parameter (SecureString) with the hub's private key, as `wg genkey` makes one."
  type        = string
  default     = "/privnet/hub/private-key"
}

variable "fleet_secret_parameter" {
  description = "The SSM parameter (SecureString) with the fleet's secret, as `openssl rand -base64 48` makes one."
  type        = string
  default     = "/privnet/psk"
}

variable "site_secret_parameters" {
  description = "The SSM parameters (SecureString) with preshared keys of more_config's [[site]]s: /privnet/site/* is all below it; empty: none."
  type        = string
  default     = ""
}

variable "regions" {
  description = "The regions in which spokes are looked for."
  type        = list(string)
}

variable "service_tag" {
  description = "A spoke is an instance whose tag `service` has this value"
  type        = string
  default     = "nat"
}

variable "environment_tag" {
  description = "and whose tag `env` has this one."
  type        = string
  default     = "prod"
}

variable "proof" {
  description = "Whether spokes must prove by STS which instance they are: \"off\", \"ask\" or \"require\"."
  type        = string
  default     = "require"
}

variable "discovery_roles" {
  description = "Roles in other accounts where spokes are looked for as well, with the external id that each asks for."
  type        = list(object({ role_arn = string, external_id = string }))
  default     = []
}

variable "more_config" {
  description = "More of hub.toml, of both where there are two: [[site]] and [[policy]] sections."
  type        = string
  default     = ""
}

variable "alarm_topic_arn" {
  description = "The SNS topic that is told when the instance fails its status checks; empty: nobody."
  type        = string
  default     = ""
}
