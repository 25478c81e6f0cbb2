variable "region" {
  description = "The region of all of it."
  type        = string
}

variable "hub_image_id" {
  description = "The hub's AMI."
  type        = string
}

variable "spoke_image_id" {
  description = "The spokes' AMI."
  type        = string
}

variable "hub_public_key" {
  description = "What `wg pubkey` makes of the key in the hub's SSM parameter /privnet/hub/private-key."
  type        = string
}

variable "self_test_targets" {
  description = "Addresses and TCP ports on the internet that each spoke connects to, once a second."
  type        = list(string)
}

variable "zones" {
  description = "In how many availability zones each VPC has subnets and a spoke."
  type        = number
  default     = 2
}

variable "hub_instance_type" {
  description = "The hub's size, of its AMI's architecture."
  type        = string
  default     = "c6in.large"
}

variable "spoke_instance_type" {
  description = "The spokes' size, of their AMI's architecture."
  type        = string
  default     = "t3.small"
}

variable "addresses" {
  description = "The spokes' Elastic IPs; the example has six spokes, and an account five addresses in a region by default."
  type        = string
  default     = "none"
}
