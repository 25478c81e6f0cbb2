variable "name" {
  description = "What it is called: small letters, digits and hyphens."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,31}$", var.name))
    error_message = "Small letters, digits and hyphens, at most 32."
  }
}

variable "cidr" {
  description = "Its CIDR: inside the privnet, and overlapping no other VPC's."
  type        = string
  validation {
    condition     = can(regex("/(1[6-9]|2[0-5])$", var.cidr)) && can(cidrnetmask(var.cidr))
    error_message = "A CIDR of /16 to /25: it is cut into eight."
  }
}

variable "zones" {
  description = "In how many availability zones there are subnets, one to three."
  type        = number
  default     = 3
  validation {
    condition     = contains([1, 2, 3], var.zones)
    error_message = "One to three zones."
  }
}
