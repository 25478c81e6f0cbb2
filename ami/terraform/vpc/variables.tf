variable "name" {
  description = "What it is called."
  type        = string
}

variable "cidr" {
  description = "Its CIDR: inside the privnet, and overlapping no other VPC's."
  type        = string
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
